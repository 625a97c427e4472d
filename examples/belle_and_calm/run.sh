#!/usr/bin/env bash
# The loop of BELLE's and CALM's guides, and of the LoRA chapter of 九格's: convert, split, train all weights and by LoRA,
# answer every held-out record, merge. On a tiny LLaMA, or with a model and data of one's own. From the repository's root,
# in its environment:
#     bash examples/belle_and_calm/run.sh [HUGGING_FACE_FOLDER DATA.json]
set -eu
here=examples/belle_and_calm
out=$here/out
source examples/made_of.sh $out "${*:-what the example brings}"
if [ $# -ge 2 ]; then
  model=$1
  data=$2
  settings="--lr 1e-5 --num_train_epochs 2"
else
  model=$out/llama
  data=$out/instructions.json
  settings="--lr 5e-3 --train_iters 150 --max_length 256 --batch_size 8"
  [ -d $model ] || python $here/make_inputs.py $out
fi

echo "== BELLE: instructions become conversations, of which the last 100 are held out"
python tools/convert_to_conv_data.py --orig_data $data --write_data $out/all.jsonl --dataset_name CRA
head -n -100 $out/all.jsonl > $out/train.jsonl
tail -n 100 $out/all.jsonl > $out/dev.jsonl

echo "== the model as a .pt, and the data as an index, once"
[ -f $out/model.pt ] || fm9g convert from-huggingface --huggingface-dir $model --output $out/model.pt
fm9g index --path $out/train.jsonl --language zh --output $out/train
fm9g index --path $out/dev.jsonl --language zh --output $out/dev
common="--config $out/model.json --tokenizer_path $model --pretrained_model $out/model.pt --output_dir $out/run
  --dataset_config $here/mixture.json --eval_dataset $here/held_out.json --eval_interval 50
  --allow_overlap 1 --n_gpus 1 --save_iters 1000 --log_iters 50"

echo "== full finetuning"
fm9g train --model_unique full $common $settings --resume_ckpt latest --save_best 1

echo "== LoRA, with the lora_config of CALM's guide"
fm9g train --model_unique lora --lora 1 --lora_config $here/lora_hyperparams.json $common $settings --resume_ckpt latest
lora=$(ls $out/run/checkpoints/lora/*/fm9g_live_checkpoint-*.pt | sort -V | tail -n 1)

echo "== CALM: an answer to every held-out record, by each of the two"
fm9g generate --model_name_or_path $out/run/checkpoints/full --dev_file $out/dev.jsonl --dev_batch_size 20 \
  --max_length 32 --output_file $out/predictions_full.jsonl --overwrite
fm9g generate --model_name_or_path $model --tokenizer $model --lora_weights $lora --dev_file $out/dev.jsonl \
  --dev_batch_size 20 --max_length 32 --output_file $out/predictions_lora.jsonl --overwrite

echo "== the adapters merged, as a Hugging Face model; and by themselves, as a PEFT folder, merged from there"
fm9g convert to-huggingface --bmtrain-ckpt-path $out/model.pt --lora-ckpt-path $lora --huggingface-ref-dir $model \
  --lora-config-path $here/lora_hyperparams.json --huggingface-save-dir $out/merged --overwrite
fm9g convert to-huggingface --adapter-only --lora-ckpt-path $lora --huggingface-ref-dir $model \
  --huggingface-save-dir $out/peft --overwrite
fm9g convert merge-peft --base_model $model --tokenizer_path $model --lora_model $out/peft --output_dir $out/merged_peft \
  --overwrite
fm9g generate --model $out/merged --prompt "Repeat the word fish twice." --template tokenizer --max_new_tokens 32
