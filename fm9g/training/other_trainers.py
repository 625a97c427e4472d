"""The flags of other trainers' guides, and what each is here: for who comes with a command of theirs.

A flag that is not ours is refused with what to write; docs/settings.md has the table.
"""

from __future__ import annotations

from typing import NamedTuple

BELLE, MEDICAL, FACTORY = "BELLE, CALM", "MedicalGPT", "LLaMA-Factory"
SAME = (  # their names are ours, with the same meaning
    "lora_config",
    "lora_alpha",
    "lora_dropout",
    "max_eval_samples",
    "max_train_samples",
    "modules_to_save",
    "neft_alpha",
    "num_train_epochs",
    "offload",
    "output_dir",
    "save_total_limit",
    "seed",
    "shift_attn",
    "warmup_ratio",
    "weight_decay",
)


class Flag(NamedTuple):
    """A flag of theirs: whose, and what to do here, in English and in Chinese."""

    guides: str
    here: str
    chinese: str


_BOTH = f"{BELLE}, {MEDICAL}"
_MODEL_DTYPE = Flag(_BOTH, "dtype in the model config, bf16 unless it says otherwise", "模型配置里的 dtype，默认 bf16")
_ATTENTION = Flag(_BOTH, "flash; left to itself the fastest kernel that is there", "flash；不设则用现有最快的内核")
_ZERO = Flag(_BOTH, "nothing: leave it out, ZeRO-3 is always on", "不需要，去掉即可：始终使用 ZeRO-3")
_NO_DDP = Flag(_BOTH, "nothing: leave it out", "不需要，去掉即可")
_REMOTE = Flag(
    MEDICAL,
    "nothing: no code of a model is ever run, and nothing is downloaded",
    "没有：从不运行模型自带的代码，也不下载",
)
_ALWAYS = Flag(
    _BOTH, "nothing: leave it out, a run trains and evaluates what it is given", "不需要：给了什么就训练、评估什么"
)
_INTERVAL = Flag(
    _BOTH, "nothing: save_iters and eval_interval count iterations", "不需要：save_iters 与 eval_interval 按迭代数计"
)
_TENSORBOARD = Flag(
    _BOTH, "nothing: TensorBoard and metrics.jsonl are always written", "不需要：始终写 TensorBoard 与 metrics.jsonl"
)
_INDEX = Flag(
    _BOTH,
    "dataset_config, a mixture of indexed datasets: tools/convert_json2index.py, or tools/convert_dataset_info.py",
    "dataset_config，由已建索引的数据集组成：tools/convert_json2index.py 或 tools/convert_dataset_info.py",
)
_HELD_OUT = Flag(
    _BOTH,
    "eval_dataset, a mixture as dataset_config, or validation_split",
    "eval_dataset，写法同 dataset_config；或 validation_split",
)
_RANK = Flag(_BOTH, "lora_r", "lora_r")
_LORA = Flag(_BOTH, "lora, or run_bmtrain_lora.sh", "lora，或使用 run_bmtrain_lora.sh")
_LENGTH = Flag(_BOTH, "max_length", "max_length")
_WARMUP = Flag(_BOTH, "warmup_iters", "warmup_iters")
_TEMPLATE = Flag(f"{MEDICAL}, {FACTORY}", "template in the mixture's entry", "数据混合条目中的 template")
_FACTORY_DATA = Flag(
    FACTORY,
    "dataset_config, a mixture: tools/convert_dataset_info.py makes it of a dataset_info.json",
    "dataset_config，即数据混合：tools/convert_dataset_info.py 由 dataset_info.json 生成",
)
_BETAS = Flag(_BOTH, "betas: (0.9, 0.95)", "betas：(0.9, 0.95)")
_PACKED = Flag(
    f"{_BOTH}, {FACTORY}",
    "nothing: leave it out, rows are packed and have no padding",
    "不需要：行总是打包的，没有填充",
)
_PREDICT = Flag(f"{_BOTH}, {FACTORY}", "tools/generate.py --dev_file", "tools/generate.py --dev_file")
_QUANTISED = Flag(_BOTH, "nothing yet: bases are in bf16, fp16 or fp32", "尚不支持：基座为 bf16、fp16 或 fp32")

ELSEWHERE = {
    "model_name_or_path": Flag(
        _BOTH,
        "pretrained_model, a .pt that tools/hgface_2_bmtrain.py makes of a Hugging Face folder; config is its shape",
        "pretrained_model，由 tools/hgface_2_bmtrain.py 从 Hugging Face 目录转换得到的 .pt；config 为其结构",
    ),
    "tokenizer_name_or_path": Flag(MEDICAL, "tokenizer_path", "tokenizer_path"),
    "train_file": _INDEX,
    "train_file_dir": _INDEX,
    "data_path": _INDEX,
    "sft_only_data_path": _INDEX,
    "dataset_name": _INDEX,
    "validation_file": _HELD_OUT,
    "validation_file_dir": _HELD_OUT,
    "eval_data_file": _HELD_OUT,
    "data_split": Flag(BELLE, "validation_split, a share", "validation_split，一个比例"),
    "validation_split_percentage": Flag(
        MEDICAL, "validation_split, a share: 0.05 and not 5", "validation_split，一个比例：0.05 而不是 5"
    ),
    "per_device_train_batch_size": Flag(_BOTH, "batch_size, rows of max_length", "batch_size，每行长 max_length"),
    "per_device_eval_batch_size": Flag(
        _BOTH, "nothing: an evaluation has training's batch_size", "没有：评估与训练的 batch_size 相同"
    ),
    "gradient_accumulation_steps": Flag(_BOTH, "grad_accum", "grad_accum"),
    "max_steps": Flag(_BOTH, "train_iters", "train_iters"),
    "model_max_length": _LENGTH,
    "max_seq_len": _LENGTH,
    "learning_rate": Flag(_BOTH, "lr", "lr"),
    "lr_scheduler_type": Flag(_BOTH, "lr_scheduler: Cosine, …", "lr_scheduler：Cosine 等"),
    "warmup_steps": _WARMUP,
    "num_warmup_steps": _WARMUP,
    "max_grad_norm": Flag(_BOTH, "clip_grad", "clip_grad"),
    "gradient_checkpointing": Flag(_BOTH, "use_checkpoint", "use_checkpoint"),
    "save_steps": Flag(_BOTH, "save_iters", "save_iters"),
    "eval_steps": Flag(_BOTH, "eval_interval", "eval_interval"),
    "logging_steps": Flag(_BOTH, "log_iters", "log_iters"),
    "show_loss_step": Flag(BELLE, "log_iters", "log_iters"),
    "load_best_model_at_end": Flag(
        _BOTH, "save_best; the file best names the checkpoint", "save_best；文件 best 记下该检查点"
    ),
    "save_strategy": _INTERVAL,
    "eval_strategy": _INTERVAL,
    "evaluation_strategy": _INTERVAL,
    "logging_strategy": _INTERVAL,
    "resume_from_checkpoint": Flag(_BOTH, "resume_ckpt: a step, or latest", "resume_ckpt：步数，或 latest"),
    "use_lora": _LORA,
    "use_peft": _LORA,
    "only_optimize_lora": _LORA,
    "lora_rank": _RANK,
    "lora_dim": _RANK,
    "lora_droppout": Flag(BELLE, "lora_dropout", "lora_dropout"),
    "lora_module_name": Flag(BELLE, "lora_layer, or lora_target_modules", "lora_layer 或 lora_target_modules"),
    "target_modules": Flag(MEDICAL, "lora_target_modules", "lora_target_modules"),
    "peft_path": Flag(
        MEDICAL,
        "pretrained_lora, which tools/hgface_2_bmtrain.py --peft-dir makes of a PEFT folder",
        "pretrained_lora，由 tools/hgface_2_bmtrain.py --peft-dir 从 PEFT 目录转换得到",
    ),
    "train_on_inputs": Flag(MEDICAL, "train_on_prompt", "train_on_prompt"),
    "template_name": _TEMPLATE,
    "template": _TEMPLATE,
    "dataset": _FACTORY_DATA,
    "dataset_dir": _FACTORY_DATA,
    "cutoff_len": Flag(FACTORY, "max_length", "max_length"),
    "val_size": Flag(FACTORY, "validation_split, a share", "validation_split，一个比例"),
    "max_samples": Flag(FACTORY, "max_train_samples", "max_train_samples"),
    "stage": Flag(FACTORY, "nothing: the mixture's format says what is learned", "不需要：由数据混合的 format 决定"),
    "finetuning_type": Flag(
        FACTORY,
        "lora, or run_bmtrain_lora.sh; full finetuning needs nothing",
        "lora，或 run_bmtrain_lora.sh；全参数微调不需要",
    ),
    "lora_target": Flag(FACTORY, "lora_target_modules", "lora_target_modules"),
    "additional_target": Flag(FACTORY, "modules_to_save", "modules_to_save"),
    "adapter_name_or_path": Flag(
        FACTORY,
        "pretrained_lora, which tools/hgface_2_bmtrain.py --peft-dir makes of a PEFT folder",
        "pretrained_lora，由 tools/hgface_2_bmtrain.py --peft-dir 从 PEFT 目录转换得到",
    ),
    "neftune_noise_alpha": Flag(FACTORY, "neft_alpha", "neft_alpha"),
    "packing": _PACKED,
    "neat_packing": _PACKED,
    "group_by_length": _PACKED,
    "do_predict": _PREDICT,
    "predict_with_generate": _PREDICT,
    "tool_format": Flag(MEDICAL, "nothing: the template says how tools are written", "没有：工具的写法由模板决定"),
    "rope_scaling": Flag(
        MEDICAL,
        "rope_scaling_type in the model config: linear, dynamic, llama3, yarn, longrope, longrope",
        "模型配置里的 rope_scaling_type：linear、dynamic、llama3、yarn、longrope、longrope",
    ),
    "torch_dtype": _MODEL_DTYPE,
    "bf16": _MODEL_DTYPE,
    "fp16": _MODEL_DTYPE,
    "flash_attn": _ATTENTION,
    "use_flash_attention": _ATTENTION,
    "qlora": _QUANTISED,
    "load_in_4bit": _QUANTISED,
    "load_in_8bit": _QUANTISED,
    "quantization_bit": _QUANTISED,
    "adam_beta1": _BETAS,
    "adam_beta2": _BETAS,
    "adam_epsilon": Flag(_BOTH, "adam_eps", "adam_eps"),
    "optim": Flag(_BOTH, "nothing yet: AdamW, on the host with offload", "尚不支持：使用 AdamW，offload 时在主机上"),
    "tf32": Flag(_BOTH, "nothing: leave it out", "不需要，去掉即可"),
    "fsdp": _ZERO,
    "model_type": Flag(
        MEDICAL, "nothing: leave it out, the model config says what the model is", "不需要：模型配置已说明结构"
    ),
    "overwrite_output_dir": Flag(
        f"{_BOTH}, {FACTORY}",
        "nothing: nothing is overwritten; another model_unique begins another run",
        "没有：从不覆盖；换一个 model_unique 即开始新的运行",
    ),
    "use_int8_training": _QUANTISED,
    "deepspeed": _ZERO,
    "zero_stage": _ZERO,
    "ddp_timeout": _NO_DDP,
    "ddp_find_unused_parameters": _NO_DDP,
    "device_map": _NO_DDP,
    "local_rank": _NO_DDP,
    "llama": Flag(
        BELLE, "nothing: leave it out, the model config says what the model is", "不需要：模型配置已说明结构"
    ),
    "do_train": _ALWAYS,
    "do_eval": _ALWAYS,
    "cache_dir": Flag(_BOTH, "nothing: an indexed dataset is read where it lies", "没有：索引数据集就地读取"),
    "overwrite_cache": Flag(MEDICAL, "nothing: there is no cache", "没有：不使用缓存"),
    "preprocessing_num_workers": Flag(
        MEDICAL, "dataloader_num_workers: texts are tokenized while training", "dataloader_num_workers：训练时才分词"
    ),
    "ignore_pad_token_for_loss": Flag(
        MEDICAL, "nothing: rows are packed, and padding never counts", "没有：行是打包的，填充从不计入损失"
    ),
    "trust_remote_code": _REMOTE,
    "model_revision": _REMOTE,
    "hf_hub_token": _REMOTE,
    "use_fast_tokenizer": Flag(
        MEDICAL,
        "nothing: tokenizer.json or a sentencepiece file is read",
        "没有：读取 tokenizer.json 或 sentencepiece 文件",
    ),
    "report_to": _TENSORBOARD,
    "logging_first_step": _TENSORBOARD,
}


def advice(flag: str) -> str:
    """What to do here about a flag of theirs; "" for one that is not known."""
    return ELSEWHERE[flag].here if flag in ELSEWHERE else ""
