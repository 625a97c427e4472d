#!/usr/bin/env bash
# Texts, indexes and tokenizer in examples/zh_en_mixture/out. The same command again does nothing that is done.
set -eu
here=examples/zh_en_mixture
out=$here/out

python $here/make_texts.py $out
for language in zh en; do
  python tools/convert_txt2jsonl.py <$out/$language.txt >$out/$language.jsonl
  fm9g index --path $out/$language.jsonl --language $language --output $out/${language}_index
done
[ -d $out/tokenizer ] || fm9g tokenizer --path $out/zh.jsonl $out/en.jsonl --vocab-size 4096 --output $out/tokenizer
