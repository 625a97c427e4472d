#!/usr/bin/env bash
# examples/finetune_real_model/run.sh, from wherever it is called.
cd "$(dirname "${BASH_SOURCE[0]}")/.." && exec bash examples/finetune_real_model/run.sh "$@"
