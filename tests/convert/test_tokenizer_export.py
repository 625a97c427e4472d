"""An exported tokenizer gives the ids that training gave, in transformers and when trained on again."""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers

from fm9g.convert.bmtrain_to_huggingface import from_scratch, with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.tokenizer.charsmap import charsmap_normalizers
from fm9g.convert.tokenizer.check import check_export, check_same_ids, generated_texts, own_pieces
from fm9g.convert.tokenizer.files import install_tokenizer
from fm9g.data.tokens.sentencepiece_proto import read_sentencepiece
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.convert.helpers import edit_json, save, tiny_llama
from tests.support.tiny_tokenizers import chat

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "In 2024 it cost 3,141.59 (about 12%); see <a href=x> or {key: [0x0A]}!",
    "def f(x):    return x  ==  y",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？",
    "中文分词器，训练与导出。",
    "가나다 한국어 がぎぐ カタカナ Привет мир ééé",
)
BPE: dict[str, Any] = {"model_type": "bpe"}
MARKS = ["<|im_start|>", "<|im_end|>", "\n", "①", "the dog", "<x>"]
KINDS: dict[str, dict[str, Any]] = {
    "unigram": {},
    "bpe": BPE,
    "char": {"model_type": "char"},
    "unigram, bytes": {"byte_fallback": True},
    "bpe, bytes": {**BPE, "byte_fallback": True},
    "unigram, user-defined": {"user_defined_symbols": MARKS},
    "unigram, user-defined words": {"user_defined_symbols": ["the", "th", "t", "do", "不", "qu"]},
    "bpe, user-defined": {**BPE, "user_defined_symbols": MARKS},
    "bpe, user-defined, bytes": {**BPE, "user_defined_symbols": MARKS, "byte_fallback": True},
    "no bos": {"bos_id": -1},
    "pad": {**BPE, "pad_id": 3, "bos_id": -1},
    "other places": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": 3},
    "identity": {"normalization_rule_name": "identity"},
    "nfkc": {**BPE, "normalization_rule_name": "nfkc"},
    "spaces": {"remove_extra_whitespaces": False},
    "llama": {
        **BPE,
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
    },
    "no dummy prefix": {"add_dummy_prefix": False},
    "across spaces": {**BPE, "split_by_whitespace": False},
    "control symbols": {"control_symbols": ["<cls>", "<sep>"]},
}


def train(path: Path, **options: Any) -> Path:
    """A sentencepiece model of some 200 pieces."""
    lines = [sentence[start:] for sentence in SENTENCES for start in range(0, 12, 2)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        **{
            "sentence_iterator": iter(lines),
            "model_writer": written,
            "vocab_size": 500,
            "hard_vocab_limit": False,
            "minloglevel": 2,
            **options,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written.getvalue())
    return path


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model from scratch with the tokenizer given."""
    root = tmp_path_factory.mktemp("export")
    checkpoint = root / "m.pt"
    huggingface_to_bmtrain(save(tiny_llama(vocab_size=1000), root / "llama"), checkpoint)

    def write(tokenizer: Path, target: Path) -> Path:
        from_scratch(checkpoint.with_suffix(".json"), tokenizer, checkpoint, target)
        return target

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_sentencepiece_model(tmp_path: Path, export: Callable[..., Path], kind: str) -> None:
    model = train(tmp_path / "sp.model", **KINDS[kind])
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    folder = export(model, tmp_path / "exported")
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*generated_texts(), *own_pieces(load_tokenizer(model)), *SENTENCES]
    words = ["the", "thes", "there", "do", "does", "quote", "tithe", "bathe", "不觉不"]
    texts += ["a\U0010fffeb", "\ufffe \U0010ffff\ue000\U000f0000"] if "bytes" not in kind and kind != "llama" else []
    texts += ["".join(some) for some in itertools.product(words, ["", " ", "s"], words)]
    assert len(texts) > 1100
    bos = [pieces.bos_id()] if pieces.bos_id() >= 0 else []
    plain = loaded(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for text, ids in zip(texts, plain, strict=True):
        expected = pieces.encode(text)
        assert ids == expected, text
    for text in texts[::20]:
        document = loaded(text, split_special_tokens=True)["input_ids"]
        expected = pieces.encode(text)
        assert document == bos + expected
        if pieces.unk_id() not in expected:
            assert loaded.decode(document, skip_special_tokens=True) == pieces.decode(expected)
    for token in ("bos", "eos", "unk", "pad"):
        number = getattr(pieces, f"{token}_id")()
        assert getattr(loaded, f"{token}_token_id") == (number if number >= 0 else None)
    assert len(loaded) == pieces.get_piece_size()

    again, trained = load_tokenizer(folder), load_tokenizer(model)
    assert (again.bos_id, again.eos_id, again.vocab_size) == (trained.bos_id, trained.eos_id, trained.vocab_size)
    assert again.encode_all(texts) == trained.encode_all(texts)
    long = ["".join(random.Random(seed).choices(texts, k=100)) for seed in range(4)]
    expected = trained.encode_all(long)
    assert loaded(long, add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    assert again.encode_all(long) == expected


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc"])
def test_normalization_is_that_of_sentencepiece(tmp_path: Path, rule: str) -> None:
    plain = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    model = train(tmp_path / "sp.model", normalization_rule_name=rule, **plain)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    values = {"type": "Sequence", "normalizers": charsmap_normalizers(read_sentencepiece(model).charsmap)}
    empty = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor", "decoder"))
    core = {"type": "BPE", "vocab": {}, "merges": []}
    contents = {"version": "1.0", "added_tokens": [], **empty, "normalizer": values, "model": core}
    normalizer = tokenizers.Tokenizer.from_str(json.dumps(contents)).normalizer
    chance = random.Random(0)
    assigned = [chr(code) for code in range(1, 0x1F000) if unicodedata.category(chr(code)) not in ("Cs", "Co", "Cn")]
    marks = [character for character in assigned if unicodedata.category(character)[0] == "M"]
    kinds = [assigned, assigned[:700], marks, marks[:80], [*"aeiouAEÅüカがあ가한 \n\r\u3099\u0301\u0323"]]
    for _ in range(5000):
        text = "".join(chance.choice(chance.choice(kinds)) for _ in range(chance.randrange(1, 10)))
        assert normalizer.normalize_str(text) == pieces.normalize(text).replace("▁", " "), ascii(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "word"}, "models of the type word"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
        ({"user_defined_symbols": ["  "]}, "user-defined piece '  '"),
        ({"normalization_rule_name": "nmt_nfkc_cf"}, "the rule .* does not follow"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    model = train(tmp_path / "sp.model", **options)
    (tmp_path / "exported").mkdir()
    with pytest.raises(UserError, match=f"sp.model: cannot be written as tokenizer.json: .*{words}"):
        install_tokenizer(model, tmp_path / "exported", 1000)


def test_another_tokenizer_is_refused_with_a_text_that_shows_it(tmp_path: Path, export: Callable[..., Path]) -> None:
    model = train(tmp_path / "sp.model", **BPE)
    trained, folder = load_tokenizer(model), export(model, tmp_path / "exported")
    check_same_ids(trained, folder)
    contents = json.loads((folder / "tokenizer.json").read_text())
    merges = contents["model"]["merges"]
    merges.remove(next(merge for merge in merges if merge == "▁t he"))
    (folder / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(UserError) as refused:
        check_same_ids(trained, folder)
    the = trained.encode("the")
    assert f"'the' is {the} in training, but" in str(refused.value)
    edit_json(folder / "tokenizer_config.json", eos_token="<s>")
    with pytest.raises(UserError, match="eos_id is 2, but exported 1"):
        check_same_ids(trained, folder)


def test_pieces_without_a_score_are_no_tie(tmp_path: Path, export: Callable[..., Path]) -> None:
    model = train(tmp_path / "sp.model", **KINDS["unigram, user-defined"])
    folder = export(model, tmp_path / "exported")
    check_same_ids(load_tokenizer(model), folder)
    text = (folder / "tokenizer.json").read_text()
    swapped = (
        text.replace("<|im_start|>", "<swap>").replace("<|im_end|>", "<|im_start|>").replace("<swap>", "<|im_end|>")
    )
    (folder / "tokenizer.json").write_text(swapped)
    with pytest.raises(UserError, match="is not the one trained with"):
        check_same_ids(load_tokenizer(model), folder)


def test_a_reference_with_tokenizer_model_alone_loses_nothing(tmp_path: Path) -> None:
    reference = save(tiny_llama(vocab_size=1000), tmp_path / "llama")
    model = train(reference / "tokenizer.model", **KINDS["llama"])
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "legacy": True,
        "chat_template": "{{ bos_token }}",
    }
    (reference / "tokenizer_config.json").write_text(json.dumps(config))
    huggingface_to_bmtrain(reference, tmp_path / "m.pt")
    with_reference(reference, tmp_path / "m.pt", tmp_path / "exported")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    trained = load_tokenizer(model)
    assert (loaded.bos_token_id, loaded.eos_token_id) == (trained.bos_id, trained.eos_id) == (1, 2)
    assert loaded.chat_template == "{{ bos_token }}"
    assert loaded("a   b\n").input_ids == [1, *trained.encode("a   b\n")]
    assert (tmp_path / "exported" / "tokenizer.model").read_bytes() == model.read_bytes()


def test_tokenizer_json_counts_where_the_class_named_would_build_another(
    tmp_path: Path, export: Callable[..., Path]
) -> None:
    folder = export(train(tmp_path / "sp.model", **BPE), tmp_path / "first")
    (folder / "tokenizer.model").unlink()
    edit_json(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    trained = load_tokenizer(folder)
    text = "Ａ  b\n\n中文 c"
    for given in (folder, folder / "tokenizer.json"):
        target = export(given, tmp_path / given.name.replace(".", "-") / "second")
        exported = transformers.AutoTokenizer.from_pretrained(target)
        assert exported(text, add_special_tokens=False).input_ids == trained.encode(text)


def test_tokens_that_are_special_in_training_alone_are_marked(tmp_path: Path) -> None:
    """One that looks like markup, and one that config.json names as another end, which the files call plain."""
    folder = chat(tmp_path / "chat")
    content = json.loads((folder / "tokenizer.json").read_text())
    ids = range(content["added_tokens"][-1]["id"] + 1, 10**6)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"] += [
        {"id": id, "content": text, **flags} for id, text in zip(ids, ["<|user|>", "ENDS"], strict=False)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [load_tokenizer(folder).eos_id, ids[1]]}))
    trained = load_tokenizer(folder)
    assert {"<|user|>", "ENDS"} <= set(trained.special.values())
    target = tmp_path / "exported"
    target.mkdir()
    named = install_tokenizer(folder, target, 1000)
    (target / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": named["eos_token_id"]}))
    check_export(folder, target, tmp_path / "m.pt")
    assert load_tokenizer(target).special == trained.special
    loaded = transformers.AutoTokenizer.from_pretrained(target)
    text = "<|user|>the ENDS"
    assert loaded(text, split_special_tokens=True)["input_ids"] == trained.encode(text)
    assert loaded(text)["input_ids"] == trained.encode(text, Written.ALL)


def test_what_stands_beside_a_special_token_is_cut_as_in_training(tmp_path: Path) -> None:
    """LlamaTokenizer begins a text with a space after each special token; the export names the class that does not."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    library.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>"]
    library.train_from_iterator(SENTENCES, tokenizers.trainers.BpeTrainer(special_tokens=special, vocab_size=300))
    folder = tmp_path / "llama"
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    target = tmp_path / "exported"
    target.mkdir()
    install_tokenizer(folder, target, 1000)
    (target / "config.json").write_text('{"model_type": "llama"}')
    check_export(folder, target, tmp_path / "m.pt")
    trained, loaded = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(target)
    for text in ("the</s>the", "</s>\n<s> a dog", "dog </s> dog"):
        assert loaded(text, add_special_tokens=False)["input_ids"] == trained.encode(text, Written.ALL)


def test_weights_that_came_with_another_tokenizer_are_told(
    tmp_path: Path, export: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = train(tmp_path / "sp.model", **BPE)
    step = tmp_path / "10"
    step.mkdir()
    huggingface_to_bmtrain(save(tiny_llama(vocab_size=1000), tmp_path / "llama"), step / "m.pt")

    def warned() -> bool:
        from_scratch(step / "m.json", model, step / "m.pt", tmp_path / "exported")
        shutil.rmtree(tmp_path / "exported")
        return f"is not the tokenizer that the weights of {step / 'm.pt'} came with" in capsys.readouterr().err

    right, wrong = load_tokenizer(model).vocabulary, "0" * 64
    for vocabulary in (right, wrong):
        state = {"stream": {"vocabulary": vocabulary}}
        (step / "state.json").write_text(json.dumps(state))
        assert warned() == (vocabulary == wrong)
    (step / "state.json").write_text("[]")
    assert not warned()
    from_scratch(step / "m.json", model, step / "m.pt", tmp_path / "folder")
    assert load_tokenizer(tmp_path / "folder").vocabulary == right  # a file of another form, the same ids
    (step / "m.tokenizer.json").write_text(json.dumps({"vocabulary": wrong}))
    assert warned()
