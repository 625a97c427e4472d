"""tools/tokenizer_json.py: sentencepiece models with tokens beside them: ChatGLM, InternLM2, Baichuan, LLaMA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from fm9g.convert.tokenizer.check import generated_texts
from fm9g.convert.tokenizer.from_class import write_tokenizer_json
from fm9g.data.tokens.sentencepiece_proto import NORMAL, Piece, with_pieces
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.convert.test_tokenizer_export import KINDS, train
from tests.convert.written_tokenizers import Made, made, pieces_folder, rich
from tests.support.ranked import TEXTS

CHATGLM2 = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
CHATGLM3 = [*CHATGLM2, "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
LLAMA = KINDS["llama"]
SLOTS = [f"[UNUSED_TOKEN_{n}]" for n in range(8)]


def processor_of(found: Made) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(found.source / "tokenizer.model"))


def check_pieces(found: Made, added: dict[str, int]) -> None:
    """Plain text has the ids of the model file, and special tokens in text stand between texts of their own."""
    processor = load_tokenizer(found.source / "tokenizer.model")  # sentencepiece itself, but for sums of Unigram
    apart = [*added, "\U0010fffe"]  # what normalizers of an export use themselves
    texts = [text for text in [*generated_texts(), *rich(300)] if not any(token in text for token in apart)]
    expected = processor.encode_all(texts)
    assert len(texts) > 1000
    assert found.ours.encode_all(texts) == expected
    assert found.theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    assert {text: found.theirs.convert_tokens_to_ids(text) for text in added} == added
    assert {text: found.ours.id_of(text) for text in added} == added
    for text, id in added.items():
        between = f"the dog{text}中文 x"
        ids = [*processor.encode("the dog"), id, *processor.encode("中文 x")]
        assert found.ours.encode(between, Written.ALL) == ids
        assert found.theirs(between, add_special_tokens=False)["input_ids"] == ids
        assert found.ours.decode([*processor.encode("the dog"), id]) == "the dog"
        assert id not in found.ours.encode(between)


@pytest.mark.parametrize(("family", "special"), [("chatglm2", CHATGLM2), ("chatglm3", CHATGLM3)])
def test_chatglm_has_its_tokens_after_the_pieces(tmp_path: Path, family: str, special: list[str]) -> None:
    names = {"bos_token": "<sop>", "pad_token": "<pad>"}  # which its class does not use
    source = pieces_folder(tmp_path / "glm", LLAMA, tokenizer_class="ChatGLMTokenizer", **names)
    found = made(source, family)
    processor = processor_of(found)
    size = processor.get_piece_size()
    check_pieces(found, {text: size + n for n, text in enumerate(special)})
    assert len(found.theirs) == found.ours.vocab_size == size + len(special)
    assert found.theirs("the dog")["input_ids"] == [size + 1, size + 3, *processor.encode("the dog")]
    assert (found.ours.bos_id, found.ours.eos_id, found.theirs.pad_token_id) == (None, 2, 0)


def test_which_chatglm_it_is(tmp_path: Path) -> None:
    config: dict[str, Any] = {"tokenizer_class": "ChatGLMTokenizer"}
    source = pieces_folder(tmp_path / "glm", LLAMA, **config)
    size = load_tokenizer(source / "tokenizer.model").vocab_size
    with pytest.raises(UserError, match="--family chatglm2, or chatglm3"):
        write_tokenizer_json(source, tmp_path / "out")

    def written(more: dict[str, Any]) -> str:
        (source / "tokenizer_config.json").write_text(json.dumps({**config, **more}))
        return write_tokenizer_json(source, tmp_path / "out", overwrite=True).family

    assert written({"name_or_path": "THUDM/chatglm2-6b"}) == "chatglm2"
    assert written({"name_or_path": "THUDM/chatglm3-6b"}) == "chatglm3"
    roles = {str(size + 6): {"content": "<|user|>", "special": False}}
    assert written({"added_tokens_decoder": roles}) == "chatglm3"
    assert load_tokenizer(tmp_path / "out").special[size + 6] == "<|user|>"
    with pytest.raises(UserError, match=r"id \d+ is 'x', but its class has '\[gMASK\]' there"):
        written({"added_tokens_decoder": {str(size + 1): {"content": "x"}}, "name_or_path": "chatglm2"})


@pytest.mark.parametrize("kind", ["user_defined_symbols", "control_symbols"])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_internlm2_has_its_tokens_in_unused_slots(tmp_path: Path, kind: str, model: str) -> None:
    options = {**(LLAMA if model == "bpe" else {"byte_fallback": True}), kind: SLOTS}
    train(tmp_path / "i" / "tokenizer.model", **options)
    old = load_tokenizer(tmp_path / "i" / "tokenizer.model")
    slots = {text: id for id, text in old.spellings.items() if text in SLOTS}
    tokens = {"<|im_end|>": slots[SLOTS[6]], "<|im_start|>": slots[SLOTS[7]]}
    added = {str(id): {"content": text, "special": True} for text, id in tokens.items()}
    added |= {str(id): {"content": text, "special": True} for id, text in enumerate(["<unk>", "<s>", "</s>"])}
    config = {"tokenizer_class": "InternLM2Tokenizer", "added_tokens_decoder": added, "pad_token": "</s>"}
    pieces_folder(tmp_path / "i", options, **config)
    found = made(tmp_path / "i")
    check_pieces(found, tokens)
    assert len(found.theirs) == old.vocab_size
    assert found.theirs("the dog")["input_ids"][0] == found.ours.bos_id == 1
    assert (found.ours.eos_id, found.theirs.pad_token_id) == (2, 2)
    assert slots[SLOTS[7]] not in found.ours.encode(f"the {SLOTS[7]}")  # a token is not written by its old name
    if kind == "user_defined_symbols":
        assert slots[SLOTS[0]] in found.ours.encode(f"the {SLOTS[0]}")


@pytest.mark.parametrize("add_bos", [True, False, None])
def test_baichuan(tmp_path: Path, add_bos: bool | None) -> None:
    token = {"__type": "AddedToken", "content": "<unk>", "lstrip": False, "normalized": True}
    config: dict[str, Any] = {"tokenizer_class": "BaichuanTokenizer", "pad_token": token, "add_eos_token": True}
    if add_bos is not None:
        config["add_bos_token"] = add_bos
    found = made(pieces_folder(tmp_path / "b", {**LLAMA, "user_defined_symbols": ["<reserved_106>"]}, **config))
    check_pieces(found, {})
    plain = found.ours.encode("the dog")
    assert found.theirs("the dog")["input_ids"] == [*([] if add_bos is False else [1]), *plain, 2]
    assert found.theirs.pad_token_id == 0
    assert found.ours.id_of("<reserved_106>") in found.ours.encode("a<reserved_106>b")
    assert load_tokenizer(found.source).encode_all(TEXTS) == found.ours.encode_all(TEXTS)  # nothing beside its model


def test_llama_with_tokens_beside_the_model(tmp_path: Path) -> None:
    source = pieces_folder(tmp_path / "l", LLAMA, tokenizer_class="LlamaTokenizer", pad_token="[PAD]")
    size = load_tokenizer(source).vocab_size
    (source / "added_tokens.json").write_text(json.dumps({"[PAD]": size, "<think>": size + 1}))
    found = made(source)
    check_pieces(found, {"[PAD]": size})
    assert found.ours.encode("a<think>b")[1:2] != [size] and size + 1 in found.ours.encode("a<think>b")
    for name, value in (("legacy", False), ("add_prefix_space", False)):
        (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", name: value}))
        with pytest.raises(UserError, match=f"{name} is False"):
            write_tokenizer_json(source, tmp_path / "out")


def test_two_tokens_that_are_spelled_alike(tmp_path: Path) -> None:
    options = {**LLAMA, "user_defined_symbols": ["sop"]}
    source = pieces_folder(tmp_path / "g", options, tokenizer_class="ChatGLMTokenizer")
    with pytest.raises(UserError, match=r"the token 'sop' of id \d+ is spelled as that of id"):
        write_tokenizer_json(source, tmp_path / "out", "chatglm3")


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_scores_that_cannot_be_added_up(tmp_path: Path, model: str, score: float) -> None:
    source = pieces_folder(tmp_path / "l", {"model_type": model}, tokenizer_class="LlamaTokenizer")
    path = source / "tokenizer.model"
    path.write_bytes(with_pieces(path.read_bytes(), [Piece("zq", score, NORMAL)]))
    if (model, score) == ("bpe", 3e38):  # it is compared alone
        assert write_tokenizer_json(source, tmp_path / "out").family == "llama"
        return
    with pytest.raises(UserError, match=r"tokenizer\.model: .*(the score|score is NaN)") as raised:
        write_tokenizer_json(source, tmp_path / "out")
    assert "\n" not in str(raised.value)
