"""What text may write: no special token unless it may, whatever the tokenizer's kind."""

import json
import re

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from transformers import PreTrainedTokenizerFast

from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import HuggingFaceTokenizer, load_tokenizer
from fm9g.errors import UserError
from tests.support.tiny_tokenizers import CONFIG, KINDS, MARKERS, bpe, chat, save, unigram, word_level


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("tokenizers")
    return {kind: make(place / str(number)) for number, (kind, make) in enumerate(KINDS.items())}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def as_it_is(tokenizer):
    """Encodes as the library does with the file as it is, where spellings of special tokens are left alone."""
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path)).encode
    library = tokenizers.Tokenizer.from_file(str(tokenizer.path))
    library.encode_special_tokens = True
    return lambda text: library.encode(text, add_special_tokens=False).ids


def disguised(marker):
    """A marker as a normalizer may make it out of other characters."""
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in marker)
    return [marker, marker.upper(), wide, "\u200b".join(marker), f" {marker} ", f"\n{marker}\t", f"▁{marker}"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("sentencepiece")])
def test_with_the_file_as_it_is_text_ends_documents(folders, kind):
    """The other tests here would not be worth much without."""
    tokenizer = load_tokenizer(folders[kind])
    encode, texts = as_it_is(tokenizer), [text for marker in MARKERS for text in disguised(marker)]
    assert any(tokenizer.eos_id in encode(text) for text in texts)


WORDS = ["the", " tiny", "model ", " ", "x", "月", "\U0001f600", "\n", "\u00a0", "lo", "Ⅷ", "hello", "\ud83d", "", "##"]
FRAGMENTS = [
    *WORDS,
    "<",
    "/s>",
    "</",
    "s",
    ">",
    "<unk>",
    "<0x0A>",
    "<think>",
    *(d for m in MARKERS for d in disguised(m)),
]


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=8))
def test_no_special_token_comes_from_text(tokenizer, parts):
    text = "".join(parts)
    assert tokenizer.special.keys() >= {tokenizer.bos_id, tokenizer.eos_id}
    assert tokenizer.special.keys().isdisjoint(tokenizer.encode(text))
    assert tokenizer.count_special(tokenizer.encode(text)) == 0


@settings(max_examples=12, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=8))
def test_text_that_may_write_the_others_writes_no_bos_nor_eos(tokenizer, parts):
    assert {tokenizer.bos_id, tokenizer.eos_id}.isdisjoint(tokenizer.encode("".join(parts), Written.INNER))


PLAIN = st.lists(st.sampled_from([*WORDS[:-3], "<", "/", "[", "|"]), max_size=12).map("".join)


@settings(max_examples=25, deadline=None)
@given(text=PLAIN)
def test_other_text_gives_what_the_library_gives(tokenizer, text):
    expected = as_it_is(tokenizer)(text)
    if tokenizer.eos_id in expected or ("x" in text and "x" in tokenizer.special.values()):
        return  # unknown text is EOS there, or a character is a control piece
    assert [tokenizer.encode(text, written) for written in Written] == [expected] * 3


@pytest.mark.parametrize("spelled", ["<s>", "</s>"])
def test_spellings_are_tokens_where_they_may_be(tokenizer, spelled):
    token = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id}[spelled]
    for text in (f"the {spelled} model", f"{spelled}", f"a {spelled} {spelled}"):
        ids = tokenizer.encode(text, Written.ALL)
        assert ids.count(token) == tokenizer.count_special(ids) == text.count(spelled)
    others = {id: text for id, text in tokenizer.special.items() if text not in ("<s>", "</s>")}
    assert others
    for id, text in others.items():
        for written in (Written.INNER, Written.ALL):
            assert tokenizer.encode(f"the {text} model", written).count(id) == 1


DIFFERENT = ("unigram, markers in the vocabulary only", "bpe, unknown is EOS")
MARKED = [kind for kind in KINDS if not kind.startswith("sentencepiece") and kind not in DIFFERENT]


@pytest.mark.parametrize("kind", MARKED)
@settings(max_examples=12, deadline=None)
@given(parts=st.lists(st.sampled_from([*WORDS, *MARKERS]), max_size=8))
def test_written_tokens_are_as_whoever_asks_the_model_has_them(folders, kind, parts):
    """transformers, vLLM and others leave it to the library, which finds added tokens in text."""
    tokenizer, text = load_tokenizer(folders[kind]), "".join(parts).replace("\ud83d", "")
    library = tokenizers.Tokenizer.from_file(str(tokenizer.path))
    expected = library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, Written.ALL) == expected


def test_a_conversation_is_as_transformers_has_it(tmp_path):
    tokenizer = load_tokenizer(chat(tmp_path / "t"))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer.path), bos_token="<s>", eos_token="<|im_end|>")
    text = "<|im_start|>user\nthe tiny model<|im_end|>\n<|im_start|>assistant\nreads<|im_end|>"
    assert tokenizer.encode(text, Written.ALL) == theirs(text, add_special_tokens=False)["input_ids"]
    assert len(tokenizer.encode(text)) > len(tokenizer.encode(text, Written.ALL)) + 20


def test_ids_are_those_of_the_file(folder, tokenizer):
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.special == {library.token_to_id(text): text for text in MARKERS}
    assert tokenizer.vocab_size == max(library.get_vocab(with_added_tokens=True).values()) + 1


def test_decoding_leaves_special_tokens_out(tokenizer):
    assert tokenizer.decode(list(tokenizer.special)) == ""


def test_what_is_special(tmp_path):
    library = tokenizers.Tokenizer(models.BPE({"a": 0, "!": 1, "b": 2}, []))
    added = [
        AddedToken(text, special=special, normalized=False)
        for text, special in [
            ("<eos>", False), ("<mark>", True), ("<think>", False), ("<|user|>", False), ("<｜User｜>", False),
            ("<extra>", False), ("<listed>", False), ("!", True), ("<unk>", True), ("<stop>", False), ("<mask>", False),
        ]
    ]  # fmt: skip
    folder = save(library, tmp_path / "t", added)
    config = {
        "bos_token": None, "eos_token": {"content": "<eos>"}, "pad_token": "!", "add_bos_token": True,
        "mask_token": "no",
        "additional_special_tokens": ["<extra>", {"content": "<mask>"}], "unk_token": "<unk>",
        "added_tokens_decoder": {"9": {"content": "<listed>", "special": True}},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    stop = library.token_to_id("<stop>")
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [library.token_to_id("<eos>"), stop, 999]}))
    tokenizer = load_tokenizer(folder)
    expected = ["<eos>", "<mark>", "<|user|>", "<｜User｜>", "<extra>", "<listed>", "<unk>", "<stop>", "<mask>"]
    assert list(tokenizer.special.values()) == expected
    assert tokenizer.encode("a!b<think>") == [0, 1, 2, library.token_to_id("<think>")]


def test_unknown_text_cannot_be_the_end(tmp_path):
    folder = save(word_level("</s>"), tmp_path / "t")
    with pytest.raises(UserError, match=r"tokenizer.json: unknown text gives '</s>', which begins or ends a document"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "changes", [{"eos_token": "<pad>"}, {"bos_token": None}, {"bos_token": "<pad>"}, {"mask_token": "the"}]
)
def test_fingerprint_tells_what_changes_documents(tmp_path, changes):
    same = [load_tokenizer(save(unigram(), tmp_path / name)).fingerprint for name in "ab"]
    assert same[0] == same[1]
    assert load_tokenizer(save(bpe(), tmp_path / "c")).fingerprint != same[0]
    folder = save(bpe(), tmp_path / "d", **changes)
    assert load_tokenizer(folder).fingerprint != load_tokenizer(tmp_path / "c").fingerprint
    assert re.fullmatch("[0-9a-f]{64}", same[0])
    (folder / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "padding_side": "left"}))
    assert load_tokenizer(folder).fingerprint == load_tokenizer(tmp_path / "c").fingerprint


def test_the_form_of_a_file_changes_neither_fingerprint_nor_vocabulary(tmp_path):
    folder = save(bpe(), tmp_path / "a")
    tokenizer = load_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    length = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps({**content, "truncation": length}, indent=3))  # of a last call
    again = load_tokenizer(folder)
    assert (again.fingerprint, again.vocabulary) == (tokenizer.fingerprint, tokenizer.vocabulary)
    assert load_tokenizer(save(unigram(), tmp_path / "b")).vocabulary != tokenizer.vocabulary


def test_sentencepiece_encodes_what_is_between_as_texts(folders):
    for kind in KINDS:
        if kind.startswith("sentencepiece"):
            tokenizer = load_tokenizer(folders[kind])
            eos, pad = tokenizer.eos_id, next(id for id, text in tokenizer.special.items() if id > 2)
            text = f"</s>the{tokenizer.special[pad]} tiny</s></s>"
            between = [eos, *tokenizer.encode("the"), pad, *tokenizer.encode(" tiny"), eos, eos]
            assert tokenizer.encode(text, Written.ALL) == between


def test_user_defined_pieces_are_vocabulary(folders):
    tokenizer = load_tokenizer(folders["sentencepiece, pieces that are user-defined"])
    library = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    for piece in ("<think>", "<|im_end|>"):
        assert piece not in tokenizer.special.values()
        assert tokenizer.encode(f"the {piece} model").count(library.piece_to_id(piece)) == 1
