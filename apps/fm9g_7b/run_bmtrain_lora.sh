#!/usr/bin/env bash
# Train adapters (LoRA) on this node: bash run_bmtrain_lora.sh [--setting value ...]      (--help lists all settings)
#
# On several nodes run it on each of them, with NNODES, RANK (this node's), MASTER_ENDPOINT (the first
# node's address), MASTER_PORT and the same GPUS_PER_NODE. The exit status is that of the training.

# What is set here gives way to train_configs/<config>.json, and that to the command line; empty means unset.
declare -A args
args["config"]="7b_lora"                                     # model_configs/7b.json, train_configs/7b_lora.json
args["model_unique"]="7b_lora"                               # the run's name
args["lora"]="1"
args["tokenizer_path"]="./tokenizer/tokenizer.model"
args["dataset_config"]="data_test"                           # dataset_config/data_test.json
args["n_gpus"]="${GPUS_PER_NODE:-}"                          # processes on this node; empty: see --help
args["pretrained_model"]=""                                  # the weights that the adapters are for; they stay as they are
args["pretrained_lora"]=""                                   # adapters to start from
args["lora_r"]=""
args["lora_alpha"]=""
args["lora_layer"]=""                                        # ['project_q', …], or ['all']
args["resume_ckpt"]=""                                       # a step, or latest
args["train_iters"]=""
args["max_length"]=""
args["batch_size"]=""
args["grad_accum"]=""
args["lr"]=""
args["save_iters"]=""
args["output_dir"]=""

source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/start.sh"
