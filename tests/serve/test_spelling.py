"""Tokens by themselves: the bytes of all tokens of an answer are its text's, whatever the vocabulary is spelled in."""

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.serve.spelling import bytes_of, spelled
from tests.support.tiny_tokenizers import save

TEXTS = ["龘 is rare", "a  b 😀👨\u200d👩", "月光\n\tédit", "</s> x"]


def bytes_level(folder):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return save(tokenizer, folder / "bytes")


def sentencepieces(folder):
    corpus = folder / "text"
    corpus.write_text("the moon is bright\nthe words are few\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        f"--input={corpus} --model_prefix={folder / 'sp'} --byte_fallback=true --model_type=bpe --vocab_size=290 "
        "--normalization_rule_name=identity --hard_vocab_limit=false --remove_extra_whitespaces=false"
    )
    return folder / "sp.model"


@pytest.mark.parametrize("make", [bytes_level, sentencepieces])
@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_all_tokens_are_the_text(make, text, tmp_path):
    tokenizer = load_tokenizer(make(tmp_path))
    found = bytes(byte for id in tokenizer.encode(text) for byte in bytes_of(tokenizer, id))
    assert found.decode().removeprefix(" ") == text


def test_a_token_that_is_a_part_of_a_character_is_spelled_as_the_vocabulary_has_it(tmp_path):
    tokenizer = load_tokenizer(bytes_level(tmp_path))
    part = tokenizer.encode("龘")[0]
    assert spelled(tokenizer, part) == tokenizer.spell(part)
    assert bytes_of(tokenizer, part) == ["龘".encode()[0]]
    assert bytes_of(tokenizer, tokenizer.eos_id) == list(b"</s>")
    assert (spelled(tokenizer, 9999), bytes_of(tokenizer, 9999)) == ("<9999>", None)
