#!/usr/bin/env bash
# A small model on Chinese and English, 60 % and 40 % of its tokens. From the repository's root, in its environment:
#     bash examples/zh_en_mixture/run.sh [--setting value ...]
set -eu
here=examples/zh_en_mixture
out=$here/out
bash $here/data.sh

# the shares that the datasets really get (without --rows 0 also the rows, as the model sees them)
fm9g preview --dataset-config $here/mixture.json --tokenizer-path $out/tokenizer --max-length 256 --batch-size 4 \
  --steps 50 --rows 0

fm9g train --config tiny --model_unique zh_en --dataset_config $here/mixture.json --tokenizer_path $out/tokenizer \
  --n_gpus 1 --train_iters 30 --save_iters 15 --output_dir $out/run --resume_ckpt latest "$@"
