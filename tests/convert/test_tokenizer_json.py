"""tools/tokenizer_json.py: the tokenizers of model families without tokenizer.json, held against what they do."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from fm9g.convert.tokenizer.check import check_same_ids, generated_texts
from fm9g.convert.tokenizer.from_class import write_tokenizer_json
from fm9g.convert.tokenizer.ranks import merges_of, read_ranks
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.convert.test_tokenizer_export import KINDS
from tests.convert.written_tokenizers import Made, made, pieces_folder, rich
from tests.support.ranked import TEXTS, Encoder, folder_of, trained, write_ranks
from tests.support.tools import run_tool_here

ROOT = Path(__file__).resolve().parents[2]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))]
GLM4 = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>"]
GLM4 += ["<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]


TOKENS = trained(500)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(folder_of(tmp_path_factory.mktemp("qwen") / "qwen", "qwen", TOKENS, model_max_length=8192))


@pytest.fixture(scope="module")
def glm4(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(folder_of(tmp_path_factory.mktemp("glm4") / "glm4", "glm4", TOKENS))


@pytest.mark.parametrize(("kind", "special"), [("qwen", QWEN), ("glm4", GLM4)])
def test_text_has_the_ids_that_lowest_ranks_give(kind: str, special: list[str], request: pytest.FixtureRequest) -> None:
    found: Made = request.getfixturevalue(kind)
    reference = Encoder(kind, TOKENS, special)
    texts = [*rich(3000), *generated_texts(), *special]
    expected = [reference.encode(text) for text in texts]
    assert found.ours.encode_all(texts) == expected
    theirs = found.theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert theirs == expected
    assert sum(len(ids) for ids in expected) < 0.9 * sum(len(text.encode()) for text in texts)  # merges are at work


@pytest.mark.parametrize(("kind", "special"), [("qwen", QWEN), ("glm4", GLM4)])
def test_special_tokens_follow_the_ranks(kind: str, special: list[str], request: pytest.FixtureRequest) -> None:
    found: Made = request.getfixturevalue(kind)
    reference = Encoder(kind, TOKENS, special)
    assert found.ours.vocab_size == len(TOKENS) + len(special) == len(found.theirs)
    assert found.ours.special == {id: text for text, id in reference.special.items()}
    assert {text: found.theirs.convert_tokens_to_ids(text) for text in special} == reference.special
    chance = random.Random(1)
    texts = ["".join(chance.choice([*special, *rich(3, n)]) for _ in range(9)) for n in range(200)]
    texts += ["<|endoftext|>\u0338", "a<|endoftext|> \n<|endoftext|>b"]
    expected = [reference.encode(text, special) for text in texts]
    assert found.ours.encode_all(texts, Written.ALL) == expected
    assert found.theirs(texts, add_special_tokens=False)["input_ids"] == expected
    assert found.ours.eos_id == found.theirs.eos_token_id == found.theirs.pad_token_id == len(TOKENS)
    assert found.ours.bos_id is None and found.theirs.bos_token_id is None
    ids = [*found.ours.encode("ab"), *reference.special.values()]
    assert found.ours.decode(ids) == found.theirs.decode(ids, skip_special_tokens=True) == "ab"


def test_what_is_decoded_is_what_was_encoded(qwen: Made, glm4: Made) -> None:
    for text in rich(500, 2):
        assert glm4.ours.decode(glm4.ours.encode(text)) == text
        once = qwen.ours.decode(qwen.ours.encode(text))  # NFC
        assert qwen.ours.decode(qwen.ours.encode(once)) == once == tokenizers.normalizers.NFC().normalize_str(text)
    assert glm4.ours.encode("\ud83d") == glm4.ours.encode("\ufffd")


def test_the_prefix_and_the_settings_are_in_the_folder(qwen: Made, glm4: Made) -> None:
    prefix = [len(TOKENS) + 2, len(TOKENS) + 4]
    assert glm4.theirs("ab")["input_ids"] == [*prefix, *glm4.ours.encode("ab")]
    assert qwen.theirs("ab")["input_ids"] == qwen.ours.encode("ab")
    config = json.loads((qwen.folder / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == qwen.theirs.model_max_length == 8192
    assert "auto_map" not in config and config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == QWEN[1:]
    for found in (qwen, glm4):
        assert not list(found.folder.glob("*.py")) and not list(found.folder.glob("tokenizer.model"))


@pytest.mark.parametrize("seed", range(12))
def test_merges_are_right_for_ranks_of_any_order(tmp_path: Path, seed: int) -> None:
    """No one need have trained them: parts may have higher ranks than the whole, and some wholes have no parts."""
    chance = random.Random(seed)
    words = {"".join(chance.choices("abc"[: 2 + seed % 2], k=chance.randrange(2, 9))) for _ in range(60)}
    tokens = [bytes([byte]) for byte in range(256)] + sorted(word.encode() for word in words)
    chance.shuffle(tokens)
    found = made(folder_of(tmp_path / "odd", "glm4", tokens))
    reference = Encoder("glm4", tokens, GLM4)
    texts = ["".join(chance.choices("aaabbc ", k=chance.randrange(40))) for _ in range(2000)]
    texts += sorted(words)
    assert found.ours.encode_all(texts) == [reference.encode(text) for text in texts]
    assert len(merges_of(tokens)) < len(words)  # some are whole pieces only


def test_the_tokens_that_a_config_of_glm4_has(tmp_path: Path) -> None:
    """Its later code takes them from there alone; the model need not have the list of the first."""
    some = ["<|endoftext|>", "[gMASK]", "<sop>", "<|code|>"]
    added = {str(len(TOKENS) + n): {"content": text, "special": n != 3} for n, text in enumerate(some)}
    config = {"added_tokens_decoder": added, "eos_token": "<|code|>", "chat_template": "{{ 1 }}"}
    found = made(folder_of(tmp_path / "glm", "glm4", TOKENS, config))
    assert found.ours.vocab_size == len(TOKENS) + 4 and found.ours.eos_id == len(TOKENS) + 3
    assert found.theirs.chat_template == "{{ 1 }}"
    lacking = {**config, "added_tokens_decoder": {str(len(TOKENS)): {"content": "<|code|>"}}, "pad_token": None}
    with pytest.raises(UserError, match=r"added_tokens_decoder has no \[gMASK\]"):
        write_tokenizer_json(folder_of(tmp_path / "b", "glm4", TOKENS, lacking), tmp_path / "out")


def _line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + b" %d\n" % rank


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:300] + lines[301:], "no line has rank 300, but 499 tokens have ranks up to 499"),
        (lambda lines: [*lines, _line(b"new one", 17)], "line 501: rank 17 is that of line 18, too"),
        (lambda lines: [*lines, _line(TOKENS[20], 500)], "line 501: the token .* is that of line 21, too"),
        (lambda lines: [*lines[:4], b"!!!! 4\n", *lines[5:]], r"line 5: b'!!!!' is not base64"),
        (lambda lines: [*lines[:4], b"abc 4\n", *lines[5:]], "line 5: b'abc' is not base64"),
        (lambda lines: [*lines, b"YQ==\n"], "line 501: b'YQ==' is not a token in base64 and its rank"),
        (lambda lines: [*lines, b"YQ== -1\n"], "line 501: .* is not a token in base64 and its rank"),
        (lambda lines: [*lines, _line(b"x" * 5000, 500)], "line 501: a token of 5000 bytes"),
        (lambda lines: lines[256:], "no line has rank 0"),
    ],
)
def test_damaged_ranks_are_named_with_their_line(tmp_path: Path, damage: Callable[..., Any], message: str) -> None:
    source = folder_of(tmp_path / "q", "qwen", TOKENS)
    lines = (source / "qwen.tiktoken").read_bytes().splitlines(keepends=True)
    (source / "qwen.tiktoken").write_bytes(b"".join(damage(lines)))
    with pytest.raises(UserError, match=message):
        write_tokenizer_json(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ranks_that_lack_a_byte(tmp_path: Path) -> None:
    write_ranks(tmp_path / "r", [token for token in TOKENS if token != b"\xff"])
    with pytest.raises(UserError, match="no token is the byte 0xFF"):
        read_ranks(tmp_path / "r")
    write_ranks(tmp_path / "r", TOKENS)
    assert read_ranks(tmp_path / "r") == TOKENS


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_class": "QwenTokenizer"}, r"tokenizer_class 'QwenTokenizer' \(did you mean 'QWenTokenizer'\?\)"),
        ({"tokenizer_class": None}, "names no tokenizer_class"),
        ({"extra_vocab_file": "qwen_extra.tiktoken"}, "extra_vocab_file is 'qwen_extra.tiktoken'"),
        ({"do_lower_case": True}, "do_lower_case is True"),
        ({"eos_token": "<eos>"}, "eos_token is '<eos>', which is none of its tokens"),
        ({"additional_special_tokens": ["<x>"]}, "additional_special_tokens has '<x>'"),
        ({"added_tokens_decoder": {"5": {"content": "<x>"}}}, "'<x>' has id 5, which is "),
        ({"added_tokens_decoder": {"500": {"content": "<x>"}}}, r"id 500 is '<x>', but its class has '<\|endoftext"),
        ({"added_tokens_decoder": {"800": {"content": "<x>"}}}, "no token of id 708, but of 800"),
        (
            {"added_tokens_decoder": {"708": {"content": "<|im_end|>"}}},
            r"'<\|im_end\|>' has id 708, but its class gives it 502",
        ),
        ({"added_tokens_decoder": {"x": {"content": "<x>"}}}, "added_tokens_decoder: 'x' is not the id of a token"),
        ({"added_tokens_decoder": {"708": {}}}, "'708' must have its spelling"),
        ({"model_max_length": "x"}, "model_max_length is 'x', and must be a number of tokens"),
        ({"model_max_length": True}, "model_max_length is True"),
        ({"padding_side": 7}, 'padding_side is 7, and must be "left" or "right"'),
        ({"truncation_side": "up"}, "truncation_side is 'up', and must be"),
        ({"chat_template": [1]}, r"chat_template is \[1\], and must be a text"),
        ({"added_tokens_decoder": {"708": {"content": "\ud800"}}}, r"'\\ud800' has half of a surrogate pair"),
        ({"model_max_length": 1e30, "padding_side": "left", "chat_template": [{"name": "a", "template": "b"}]}, None),
        ({"added_tokens_decoder": []}, None),
        ({"added_tokens_decoder": [1]}, "must be an object of ids and tokens"),
    ],
)
def test_what_cannot_be_written_is_named_by_its_field(tmp_path: Path, config: Any, message: str | None) -> None:
    source = folder_of(tmp_path / "q", "qwen", TOKENS, config)
    if message is None:
        write_tokenizer_json(source, tmp_path / "out")
        return
    with pytest.raises(UserError, match=message) as raised:
        write_tokenizer_json(source, tmp_path / "out")
    assert "tokenizer_config.json" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("tokens", "added", "message"),
    [
        ([*TOKENS, b"<|endoftext|>"], {}, r"'<\|endoftext\|>' of id 501 is spelled as that of id 500, which"),
        ([*TOKENS, b"qqq"], {"709": {"content": "qqq"}}, "'qqq' of id 709 is spelled as that of id 500, which"),
        (
            TOKENS,
            {"708": {"content": "\u0120"}},
            f"'\u0120' of id 708 is spelled as that of id {TOKENS.index(b' ')}, which",
        ),
    ],
    ids=["class", "added", "letters"],
)
def test_a_token_spelled_as_one_of_the_vocabulary(
    tmp_path: Path, tokens: list[bytes], added: dict[str, Any], message: str
) -> None:
    """The tokenizers library would give it the id of that one, and all after it those one lower."""
    source = folder_of(tmp_path / "q", "qwen", tokens, {"added_tokens_decoder": added})
    with pytest.raises(UserError, match=message):
        write_tokenizer_json(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ids_that_the_library_reads_otherwise_than_the_file_says(qwen: Made, tmp_path: Path) -> None:
    shutil.copytree(qwen.folder, tmp_path / "moved")
    content = json.loads((tmp_path / "moved/tokenizer.json").read_text())
    content["added_tokens"][0]["content"] = "ab"
    content["model"]["vocab"].setdefault("ab", len(TOKENS) - 1)
    (tmp_path / "moved/tokenizer.json").write_text(json.dumps(content))
    edit_eos = json.loads((tmp_path / "moved/tokenizer_config.json").read_text())
    edit_eos |= {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (tmp_path / "moved/tokenizer_config.json").write_text(json.dumps(edit_eos))
    with pytest.raises(UserError, match=r"token \d+ is .*, but exported .* has the id \d+"):
        check_same_ids(load_tokenizer(tmp_path / "moved"), tmp_path / "moved")


def test_folders_that_are_none(tmp_path: Path, qwen: Made) -> None:
    source = folder_of(tmp_path / "q", "qwen", TOKENS)
    (source / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer_config\.json"):
        write_tokenizer_json(source, tmp_path / "out")
    with pytest.raises(UserError, match=r"has a tokenizer\.json, which is used as it is"):
        write_tokenizer_json(qwen.folder, tmp_path / "out")
    with pytest.raises(UserError, match="not a folder"):
        write_tokenizer_json(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UserError, match="choose another folder"):
        write_tokenizer_json(qwen.source, qwen.source)
    with pytest.raises(UserError, match="its tokenizer_class QWenTokenizer is that of qwen, not glm4"):
        write_tokenizer_json(qwen.source, tmp_path / "out", "glm4")
    (tmp_path / "r").mkdir()
    shutil.copy(qwen.source / "tokenizer_config.json", tmp_path / "r")
    with pytest.raises(UserError, match=r"qwen\.tiktoken"):
        write_tokenizer_json(tmp_path / "r", tmp_path / "out")


# Bloom


def bloom_folder(folder: Path) -> Path:
    """vocab.json and merges.txt of a byte-level BPE, cut as Bloom's is."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = _bloom()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    library.train_from_iterator(
        TEXTS * 3,
        tokenizers.trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    folder.mkdir(parents=True)
    library.model.save(str(folder))
    names = dict(zip(["unk_token", "bos_token", "eos_token", "pad_token"], special, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BloomTokenizerFast", **names}))
    library.save(str(folder.with_name("reference.json")))
    return folder


def _bloom() -> Any:
    split, byte_level = tokenizers.pre_tokenizers.Split, tokenizers.pre_tokenizers.ByteLevel
    words = split(tokenizers.Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), behavior="isolated")
    return tokenizers.pre_tokenizers.Sequence([words, byte_level(add_prefix_space=False, use_regex=False)])


def test_bloom_of_two_files(tmp_path: Path) -> None:
    found = made(bloom_folder(tmp_path / "bloom"))
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "reference.json"))
    reference.encode_special_tokens = True
    texts = [text for text in [*rich(2000), *generated_texts()] if "<s>" not in text and "<pad>" not in text]
    expected = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    assert found.ours.encode_all(texts) == expected
    assert found.theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    assert (found.ours.bos_id, found.ours.eos_id, found.theirs.pad_token_id, found.theirs.unk_token_id) == (1, 2, 3, 0)
    assert all(found.ours.decode(found.ours.encode(text)) == text for text in texts if "\ufffd" not in text)
    (found.source / "merges.txt").write_text("#version: 0.2\n\nt q\n")
    with pytest.raises(UserError, match=r"merges\.txt, line 3: 'tq' is not in vocab\.json"):
        write_tokenizer_json(found.source, tmp_path / "out")


# what reads a folder without tokenizer.json says which command is to be run


def test_a_folder_that_is_not_read_alone_names_the_command(tmp_path: Path, qwen: Made, glm4: Made) -> None:
    chatglm = pieces_folder(tmp_path / "c", KINDS["llama"], tokenizer_class="ChatGLMTokenizer")
    size = load_tokenizer(chatglm / "tokenizer.model").vocab_size
    added = {str(size - 1): {"content": "<|im_end|>"}, str(size): {"content": "<|im_start|>"}}
    internlm = pieces_folder(
        tmp_path / "i", KINDS["llama"], tokenizer_class="InternLM2Tokenizer", added_tokens_decoder=added
    )
    cases = {
        qwen.source: "holds qwen.tiktoken, and no tokenizer.json",
        glm4.source: "holds ranks of tiktoken, not a sentencepiece model",
        chatglm: r"its tokenizer_class ChatGLMTokenizer has \[gMASK\], sop and more beside tokenizer.model",
        internlm: r"tokenizer_config.json has '<\|im_end\|>' and 1 more tokens beside tokenizer.model",
        bloom_folder(tmp_path / "bloom"): "holds vocab.json, and no tokenizer.json",
    }
    for folder, what in cases.items():
        with pytest.raises(UserError, match=f"{what}.*: write one that has them all: .*json") as raised:
            load_tokenizer(folder)
        assert "\n" not in str(raised.value) and f"--tokenizer {folder} --output" in str(raised.value)
    load_tokenizer(internlm / "tokenizer.model")  # without them, as asked


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    """Each as it is written there, with a tiny tokenizer where the model would be."""
    page = (ROOT / "docs/data.md").read_text("utf-8")
    commands = re.findall(r"^    python tools/tokenizer_json\.py (.*)$", page, re.MULTILINE)
    assert len(commands) == 6
    llama, models = KINDS["llama"], tmp_path / "models"
    folder_of(models / "Qwen-7B", "qwen", TOKENS)
    folder_of(models / "glm-4-9b", "glm4", TOKENS)
    for name, found in {
        "chatglm2-6b": "ChatGLMTokenizer",
        "chatglm3-6b": "ChatGLMTokenizer",
        "internlm2-7b": "InternLM2Tokenizer",
        "Baichuan2-7B": "BaichuanTokenizer",
    }.items():
        pieces_folder(models / name, llama, tokenizer_class=found)
    sizes = {}
    for words in map(str.split, commands):
        done = run_tool_here("tokenizer_json.py", words, tmp_path)
        assert done.returncode == 0, done.output
        written = words[words.index("--output") + 1]
        sizes[written] = load_tokenizer(tmp_path / written).vocab_size
        assert f"{written}: " in done.output and f" {sizes[written]} tokens, " in done.output
    assert sizes["tokenizer_chatglm3"] == sizes["tokenizer_chatglm2"] + 4
    again = run_tool_here("tokenizer_json.py", commands[0].split(), tmp_path)
    assert again.returncode == 1 and "--overwrite" in again.output
