"""tools/merge_tokenizers.py: old tokens and cuts stay, new pieces are used, and two readers agree."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
import sentencepiece
import tokenizers
import transformers

from fm9g.convert.resized_rows import new_rows
from fm9g.convert.tokenizer.check import generated_texts
from fm9g.convert.tokenizer.merged import Report, merge_tokenizers
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from fm9g.errors import UserError
from tests.convert.helpers import edit_json
from tests.support.domains import BASE_TEXTS, DOMAIN_TEXTS, PAIRS, UNIGRAM, byte_level, sentencepiece_model
from tests.support.places import write_jsonl
from tests.support.tiny_tokenizers import save, with_tokens, word_level
from tests.support.tools import run_tool_here


class Made(NamedTuple):
    """A base, a domain, and what was made of them."""

    base: Path
    domain: Path
    folder: Path
    old: Tokenizer
    new: Tokenizer
    report: Report
    normalizes: bool


@pytest.fixture(scope="module", params=PAIRS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("merged")
    (root / "base").mkdir()
    (root / "domain").mkdir()
    base, domain = (make(root / name) for make, name in zip(PAIRS[request.param], ("base", "domain"), strict=True))
    report = merge_tokenizers(base, domain, root / "out")
    return Made(
        base,
        domain,
        root / "out",
        load_tokenizer(base),
        load_tokenizer(root / "out"),
        report,
        request.param == "sentencepiece unigram",
    )


def test_old_tokens_keep_their_ids_and_new_ones_follow_in_the_domains_order(made: Made) -> None:
    old, new = made.old.spellings, made.new.spellings
    assert {id: new[id] for id in old} == old
    assert made.new.special == made.old.special
    assert (made.new.bos_id, made.new.eos_id) == (made.old.bos_id, made.old.eos_id)
    first = max(old) + 1
    added = [new[id] for id in sorted(new) if id >= first]
    assert set(new) == set(old) | set(range(first, first + len(added)))
    theirs = load_tokenizer(made.domain)
    order = [theirs.spellings[id] for id in sorted(theirs.spellings) if theirs.spellings[id] in added]
    added, steps = added[: len(order)], added[len(order) :]
    assert added == order == made.report.merged.new
    assert steps == made.report.merged.steps and not set(steps) & set(theirs.spellings.values())
    assert len(added) > 20


def boundaries(tokenizer: Tokenizer, ids: list[int]) -> set[int]:
    return set(accumulate(len(tokenizer.spell(id)) for id in ids))


def test_tokens_of_a_text_are_joined_and_never_torn(made: Made) -> None:
    """So a text without a new piece has the ids that it had, whatever else the domain holds."""
    texts = [text for text in (*BASE_TEXTS, *generated_texts(400)) if made.old.unknown_id not in made.old.encode(text)]
    same = 0
    for text in texts:
        before, after = made.old.encode(text), made.new.encode(text)
        if not any("<0x" in made.old.spell(id) for id in before):
            assert boundaries(made.new, after) <= boundaries(made.old, before), text
        if set(after) <= made.old.spellings.keys():
            assert after == before, text
            same += 1
    assert same > 50


def test_text_of_the_domain_takes_fewer_tokens_and_comes_back(made: Made) -> None:
    before, after = (sum(map(len, one.encode_all(DOMAIN_TEXTS))) for one in (made.old, made.new))
    assert after < 0.65 * before
    for text in DOMAIN_TEXTS:
        kept = unicodedata.normalize("NFKC", text) if made.normalizes else text
        assert made.new.decode(made.new.encode(text)) == kept


def test_each_new_piece_is_a_token_of_its_text(made: Made) -> None:
    for id in made.new.spellings.keys() - made.old.spellings.keys():
        assert made.new.cut(made.new.spell(id)) == [id]


def test_transformers_reads_the_same(made: Made) -> None:
    loaded = transformers.AutoTokenizer.from_pretrained(made.folder)
    texts = [*DOMAIN_TEXTS, *BASE_TEXTS, *generated_texts(300)]
    assert loaded(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] == made.new.encode_all(texts)
    assert loaded.eos_token_id == made.old.eos_id
    assert len(loaded) == len(made.new.spellings)
    if isinstance(made.old, SentencePieceTokenizer):
        processor = sentencepiece.SentencePieceProcessor(model_file=str(made.folder / "tokenizer.model"))
        assert processor.get_piece_size() == made.new.vocab_size
        assert load_tokenizer(made.folder / "tokenizer.model").encode_all(texts) == made.new.encode_all(texts)
    else:
        library = tokenizers.Tokenizer.from_file(str(made.folder / "tokenizer.json"))
        for id, spelling in made.old.special.items():
            assert library.token_to_id(spelling) == id
            assert made.new.encode(f"the {spelling} 糖", Written.ALL).count(id) == 1


def test_a_merged_tokenizer_can_be_merged_again(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adds nothing to"):
        merge_tokenizers(made.folder, made.domain, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_command_says_what_it_took(tmp_path: Path) -> None:
    byte_level(tmp_path / "b", BASE_TEXTS)
    byte_level(tmp_path / "d", DOMAIN_TEXTS)
    write_jsonl(tmp_path / "s.jsonl", [{"input": "", "output": text} for text in DOMAIN_TEXTS])
    words = ["--base", "b", "--domain", "d", "--output", "o", "--sample", "s.jsonl"]
    done = run_tool_here("merge_tokenizers.py", words, tmp_path)
    old, new = load_tokenizer(tmp_path / "b"), load_tokenizer(tmp_path / "o")
    assert done.returncode == 0
    taken, steps = map(
        int, re.search(r"base 400 tokens, (\d+) taken and (\d+) steps to them, left", done.output).groups()
    )
    assert taken + steps == new.vocab_size - old.vocab_size
    assert f"now {new.vocab_size}; tokens per character " in done.output
    length = sum(map(len, DOMAIN_TEXTS))
    counts = [sum(map(len, one.encode_all(DOMAIN_TEXTS))) / length for one in (new, old)]
    assert done.output.strip().endswith("{:.3f}, were {:.3f}".format(*counts))
    again = run_tool_here("merge_tokenizers.py", words, tmp_path)
    assert again.returncode == 1 and "o: the output folder is not empty" in again.output
    assert run_tool_here("merge_tokenizers.py", [*words, "--overwrite"], tmp_path).returncode == 0


def test_what_stands_beside_the_base_comes_along(tmp_path: Path) -> None:
    base = with_tokens(tmp_path / "b", ["<|im_end|>"], BASE_TEXTS, eos_token="<|im_end|>", chat_template="{{ 1 }}")
    (base / "vocab.json").write_text("{}")
    (base / "chat_template.jinja").write_text("{{ 2 }}")
    merge_tokenizers(base, byte_level(tmp_path / "d", DOMAIN_TEXTS), tmp_path / "o")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "o/tokenizer_config.json").read_text())["chat_template"] == "{{ 1 }}"
    assert load_tokenizer(tmp_path / "o").eos_id == load_tokenizer(base).eos_id


def test_pieces_that_the_bases_text_never_holds_are_left_out(tmp_path: Path) -> None:
    """Of a base that cuts digits apart and makes letters small."""
    base = byte_level(tmp_path / "b", BASE_TEXTS)
    content = json.loads((base / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    content["normalizer"] = {"type": "Lowercase"}
    (base / "tokenizer.json").write_text(json.dumps(content))
    domain = byte_level(tmp_path / "d", ["MRI 7788 mri carcinoma"] * 9, 300)
    never = merge_tokenizers(base, domain, tmp_path / "o").merged.never
    assert {"MRI", "Ġ7788"} <= set(never) and "carcinoma" not in never


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Tokenizers of several kinds."""
    return {
        "bytes": byte_level(tmp_path / "bytes", BASE_TEXTS),
        "model": sentencepiece_model(tmp_path / "m.model", BASE_TEXTS),
        "domain": sentencepiece_model(tmp_path / "d.model", DOMAIN_TEXTS),
        "words": save(word_level(), tmp_path / "words"),
        "word model": sentencepiece_model(
            tmp_path / "w.model", BASE_TEXTS, model_type="word", byte_fallback=False, vocab_size=30
        ),
        "suffix": sentencepiece_model(tmp_path / "s.model", BASE_TEXTS, treat_whitespace_as_suffix=True, **UNIGRAM),
        "nothing": tmp_path / "nothing",
    }


@pytest.mark.parametrize(
    ("base", "domain", "says"),
    [
        ("bytes", "domain", "has pieces of bytes, .* of characters, with ▁ for a blank: they cannot be merged"),
        ("model", "bytes", "of characters, with ▁ for a blank, .* of bytes: they cannot be merged"),
        ("words", "bytes", "is a WordLevel model"),
        ("bytes", "words", "is a WordLevel model"),
        ("word model", "domain", "is a sentencepiece model of words, not of pieces"),
        ("model", "word model", "is a sentencepiece model of words, not of pieces"),
        ("suffix", "domain", "does not put ▁ before a word"),
        ("model", "model", "adds nothing to"),
        ("nothing", "domain", "no such tokenizer"),
        ("model", "nothing", "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(
    places: dict[str, Path], tmp_path: Path, base: str, domain: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        merge_tokenizers(places[base], places[domain], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_places_that_are_read_are_not_written(places: dict[str, Path]) -> None:
    for target in (places["bytes"], places["model"].parent):
        with pytest.raises(UserError, match=r"is where .* is read from"):
            merge_tokenizers(places["bytes"], places["model"], target, overwrite=True)


def test_added_tokens_that_a_model_file_does_not_have(places: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(places["model"], folder / "tokenizer.model")
    size = load_tokenizer(folder).vocab_size
    (folder / "added_tokens.json").write_text("{}")
    edit_json(folder / "added_tokens.json", **{"<pad>": size})
    with pytest.raises(UserError, match=r"added_tokens.json has '<pad>' beside tokenizer.model.*tokenizer.json"):
        merge_tokenizers(folder, places["domain"], tmp_path / "out")
    with pytest.raises(UserError, match=rf"token {size} stands where new pieces.*--tokenizer {folder}"):
        merge_tokenizers(folder / "tokenizer.model", places["domain"], tmp_path / "out")


def test_letters_that_the_base_lacks_are_left_out(tmp_path: Path) -> None:
    """Bytes for which the model has no row, as SmolLM2 has none for those that no text holds: no row can be made."""
    base, domain = byte_level(tmp_path / "b", BASE_TEXTS), byte_level(tmp_path / "d", DOMAIN_TEXTS)
    content = json.loads((base / "tokenizer.json").read_text())
    lacking = {"À", "Á", "õ", "ö"}
    kept = [text for text in content["model"]["vocab"] if text not in lacking]
    ids = {text: id for id, text in enumerate(kept)}
    content["model"]["vocab"] = ids
    for token in content["added_tokens"]:
        token["id"] = ids[token["content"]]
    (base / "tokenizer.json").write_text(json.dumps(content))
    merge_tokenizers(base, domain, tmp_path / "out")
    old, new = load_tokenizer(base), load_tokenizer(tmp_path / "out")
    added = {text for id, text in new.spellings.items() if id not in old.spellings}
    assert added and not any(set(text) & lacking for text in added)
    assert new_rows(old, new, old.vocab_size).parts.keys() == {new.id_of(text) for text in added}
