"""What `make quickstart` shows of a model, without the minutes of training."""

import importlib.util
import json
import math
import sys

import pytest

from fm9g.data.tokens.training import save_tokenizer, train_tokenizer
from fm9g.errors import UserError
from fm9g.model.config import ModelConfig
from fm9g.model.parameters import num_parameters
from fm9g.training.settings import config_paths, read_settings
from tests.support.ranks import REPOSITORY


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", REPOSITORY / "tools/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXTS = [f"text {i} says that {i} is less than {i + 1}" + " indeed" * (i % 5) for i in range(10_000, 10_100)]


def test_held_out_texts_are_not_in_the_corpus(quickstart, tmp_path):
    quickstart.write_corpus(tmp_path, "first", [*TEXTS, "short", "long " * 1000])
    corpus = [json.loads(line)["output"] for line in (tmp_path / "first.jsonl").open()]
    held_out = quickstart.held_out(tmp_path, "first")
    assert held_out == TEXTS[9::10]
    assert sorted(corpus + held_out) == sorted(TEXTS)


def test_too_little_text_is_refused(quickstart, tmp_path):
    with pytest.raises(UserError, match="20 texts are too few for a corpus"):
        quickstart.write_corpus(tmp_path, "first", TEXTS[:20])


def test_a_text_in_another_encoding_is_refused_with_what_to_do(quickstart, tmp_path):
    (tmp_path / "x.txt").write_bytes("明月光".encode("gb18030"))
    with pytest.raises(UserError, match=r"x\.txt: not UTF-8 at byte 0; for Chinese text in GBK: iconv -f GB18030"):
        quickstart.read_text(tmp_path / "x.txt")


def test_a_text_is_cut_into_passages(quickstart):
    lines = ["first", "", *(f"line {i} of a poem" for i in range(100)), "詩" * 1500, "last"]
    pieces = list(quickstart.passages("\n".join(lines)))
    assert "".join(pieces).replace("\n", "") == "".join(lines)
    assert max(map(len, pieces)) <= 2 * quickstart.PASSAGE < quickstart.LONGEST
    assert not any("\n\n" in piece for piece in pieces)


def test_bits_per_byte(quickstart, tmp_path):
    assert quickstart.bits_per_byte(math.log(2) * 12, ["ab", "詩x"]) == pytest.approx(2)
    quickstart.write_corpus(tmp_path, "first", TEXTS)
    (tmp_path / "tokenizer").mkdir()
    save_tokenizer(train_tokenizer([tmp_path / "first.jsonl"], 300), tmp_path / "tokenizer")
    assert 0.5 < quickstart.by_frequency(tmp_path, "first") < 8


def test_its_settings_are_those_of_its_config(quickstart):
    settings = read_settings([], "config=quickstart")
    assert settings.train_iters == quickstart.ITERATIONS
    assert settings.save_iters == quickstart.SAVED_AT < quickstart.KILLED_AFTER < 2 * quickstart.SAVED_AT
    assert ModelConfig.from_json(config_paths("quickstart")[0]).vocab_size == quickstart.VOCABULARY


@pytest.mark.parametrize("path", sorted((REPOSITORY / "model_configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_config_has_train_settings_of_its_own(path):
    settings = read_settings([], f"config={path.stem}")
    assert {"lr", "warmup_iters", "max_length", "train_iters"} <= settings.sources.keys()
    assert settings.max_length <= ModelConfig.from_json(path).max_length


def test_small_is_a_model_for_one_gpu():
    config = ModelConfig.from_json(config_paths("small")[0])
    assert 100e6 < num_parameters(config) < 200e6
    assert 32_000 <= config.vocab_size <= 50_000


def test_there_are_questions_enough_and_each_is_asked_once():
    questions = sys.modules["quickstart_finetuning"].questions
    found = list(questions())
    assert len({record["instruction"] for record in found}) > 500
    for record in found:
        assert record["instruction"].endswith("?")
        assert record["output"].endswith(".") and "\n" not in record["output"]
