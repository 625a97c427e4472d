#!/usr/bin/env bash
# Two nodes of one process each, on this machine. From the repository's root, in its environment:
#     bash examples/two_nodes/run.sh [--setting value ...]
set -eu
mixture=examples/zh_en_mixture
out=examples/two_nodes/out
mkdir -p $out
bash $mixture/data.sh

# the same on both nodes; each has its own RANK
export NNODES=2 GPUS_PER_NODE=1 MASTER_ENDPOINT=localhost MASTER_PORT="${MASTER_PORT:-29500}"
command=(fm9g train --config tiny --model_unique two_nodes --dataset_config $mixture/mixture.json
  --tokenizer_path $mixture/out/tokenizer --output_dir $out/run --batch_size 2 --train_iters 10 --save_iters 10
  --resume_ckpt latest "$@")

RANK=1 "${command[@]}" >$out/node1.log 2>&1 &
node1=$!
trap 'kill $node1 2>/dev/null || true' EXIT
RANK=0 "${command[@]}"
wait $node1
