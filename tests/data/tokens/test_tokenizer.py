"""Loading tokenizers of every kind, and training one."""

import json
import pickle
import shutil

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.data.tokens.training import save_tokenizer, train_tokenizer
from fm9g.errors import UserError

TEXTS = [
    "床前明月光，疑是地上霜。",
    "The quick brown fox jumps over the lazy dog.",
    "舉頭望明月，\n低頭思故鄉。  x",
] * 20


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "a.jsonl"
    path.write_text("".join(json.dumps({"input": "問：", "output": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("trained")
    save_tokenizer(train_tokenizer([texts], 300), folder)
    return folder


def train_sentencepiece(folder, **options):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(folder / "tokenizer"), vocab_size=100, model_type="unigram",
        hard_vocab_limit=False, byte_fallback=False, minloglevel=2, **options,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return train_sentencepiece(tmp_path_factory.mktemp("sp"))


@pytest.fixture(params=["hugging face", "sentencepiece"])
def tokenizer(request, trained, model_file):
    return load_tokenizer(trained if request.param == "hugging face" else model_file)


def test_common_interface(tokenizer):
    assert tokenizer.decode(tokenizer.encode("明月 fox")) == "明月 fox"
    assert tokenizer.bos_id != tokenizer.eos_id
    assert tokenizer.encode("") == []
    assert all(0 <= token < tokenizer.vocab_size for text in TEXTS for token in tokenizer.encode(text))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert (copy.eos_id, copy.fingerprint) == (tokenizer.eos_id, tokenizer.fingerprint)


def test_special_tokens_cannot_be_injected(tokenizer):
    ids = tokenizer.encode("a<s>b</s>c")
    assert tokenizer.eos_id not in ids
    assert tokenizer.bos_id not in ids
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("a<s>b</s>c") == ids


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.encode("a\ud83db") == tokenizer.encode("a\ufffdb")
    assert tokenizer.encode("\U0001f600") == tokenizer.encode("\ud83d\ude00")


@pytest.mark.parametrize("where", ["file", "folder"])
def test_sentencepiece_is_what_the_library_gives(model_file, where):
    tokenizer = load_tokenizer(model_file if where == "file" else model_file.parent)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    assert [tokenizer.encode(text) for text in TEXTS] == [processor.encode(text) for text in TEXTS]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, len(processor))


def test_sentencepiece_without_bos_or_eos(tmp_path):
    assert load_tokenizer(train_sentencepiece(tmp_path, bos_id=-1, eos_id=1)).bos_id is None
    with pytest.raises(UserError, match="no end-of-sentence token"):
        load_tokenizer(train_sentencepiece(tmp_path, eos_id=-1))


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_bytes_round_trip_and_transformers_agrees(trained, text):
    tokenizer = load_tokenizer(trained)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_all([text, "", text + "x"]) == [tokenizer.encode(text), [], tokenizer.encode(text + "x")]
    if "<s>" not in text and "</s>" not in text:
        reference = tokenizers.Tokenizer.from_file(str(trained / "tokenizer.json"))
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


def test_trained_tokenizer_in_transformers(trained):
    theirs, ours = AutoTokenizer.from_pretrained(trained), load_tokenizer(trained)
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (ours.bos_id, ours.eos_id, ours.vocab_size)
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
        assert theirs.encode(text) == [ours.bos_id, *ours.encode(text)]
        assert theirs.decode(theirs.encode(text), skip_special_tokens=True) == text


def test_trained_file_is_the_old_format_too(trained):
    """tokenizers 0.19, which transformers 4.44 brings, reads merges as "a b" alone."""
    merges = json.loads((trained / "tokenizer.json").read_text())["model"]["merges"]
    assert merges
    assert all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)


def test_training_is_deterministic_and_honest(texts, tmp_path):
    first, second = (train_tokenizer([texts, texts], 290).to_str() for _ in range(2))
    assert first == second
    assert train_tokenizer([texts], 10_000).get_vocab_size() < 10_000
    with pytest.raises(UserError, match="too small"):
        train_tokenizer([texts], 257)
    (tmp_path / "none.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match='no record has text in "input" nor "output"'):
        train_tokenizer([tmp_path / "none.jsonl"], 300)
    (tmp_path / "bad.jsonl").write_text('{"output": "\\ud83d"}\nx\n')
    with pytest.raises(UserError, match="line 2, byte 21"):
        train_tokenizer([tmp_path / "bad.jsonl"], 300)


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "t")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "t" / name).unlink()
    return tmp_path / "t"


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"tokenizer_config": {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}}, (0, 1)),
        ({"tokenizer_config": {"bos_token": None, "eos_token": "</s>"}, "config": {"bos_token_id": 0}}, (None, 1)),
        (
            {"tokenizer_config": {}, "special_tokens_map": {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}},
            (0, 1),
        ),
        ({"config": {"bos_token_id": 5, "eos_token_id": [7, 8]}}, (5, 7)),
        ({"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": 9}}, (None, 9)),
    ],
)
def test_where_bos_and_eos_come_from(folder, files, ids):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id) == ids


def test_settings_of_the_file_do_not_cut_text(folder):
    (folder / "config.json").write_text('{"eos_token_id": 1}')
    saved = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    full = load_tokenizer(folder).encode(TEXTS[1])
    saved.enable_truncation(2)
    saved.enable_padding(length=200)
    saved.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder).encode(TEXTS[1]) == full


def test_vocabulary_with_gaps(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["gap"] = 900
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text('{"eos_token_id": 1}')
    assert load_tokenizer(folder).vocab_size == 901


def test_what_is_no_tokenizer(folder, tmp_path):
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    with pytest.raises(UserError, match=r"eos_token is '<\|end\|>', which is not in tokenizer.json"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load_tokenizer(folder)
    (folder / "tokenizer.model").write_text("not a model")
    for path in (folder, folder / "tokenizer.model"):
        with pytest.raises(UserError, match="not a sentencepiece model"):
            load_tokenizer(path)
    with pytest.raises(UserError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "absent")
