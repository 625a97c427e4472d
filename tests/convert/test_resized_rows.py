"""Rows for the tokens of a larger tokenizer: means of those that spelled their text, and no old bit changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

from fm9g.commands import from_huggingface
from fm9g.convert.bmtrain_to_huggingface import with_reference
from fm9g.convert.huggingface_to_bmtrain import huggingface_to_bmtrain
from fm9g.convert.resized_rows import NewRows, resized
from fm9g.convert.tokenizer.files import copy_files
from fm9g.convert.tokenizer.merged import merge_tokenizers
from fm9g.convert.tokenizer.of_weights import vocabulary_of
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.tensors.readers import read_pt
from tests.convert.helpers import IN_FLOAT32, assert_same_bits, read_tensors, save, tiny_llama
from tests.support.domains import BASE_TEXTS, DOMAIN_TEXTS, PAIRS, byte_level, sentencepiece_model
from tests.support.tiny_tokenizers import with_tokens

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def model_of(
    tokenizer: Path, folder: Path, rows: int = 0, dtype: torch.dtype = torch.float32, **settings: bool
) -> Path:
    """A tiny LLaMA with that tokenizer, and so many rows if that is more."""
    rows = max(load_tokenizer(tokenizer).vocab_size, rows)
    save(tiny_llama(dtype, vocab_size=rows, **settings), folder)
    if tokenizer.is_dir():
        copy_files(tokenizer, folder, ("tokenizer*", "special_tokens_map.json"))
    return folder


def converted(base: Path, made: Path, model: Path, dtype: str | None = None) -> dict[str, torch.Tensor]:
    """The weights with rows for the tokenizer `made`."""
    target = model.with_suffix(".pt")
    huggingface_to_bmtrain(model, target, dtype, tokenizers=(base, made))
    return torch.load(target, weights_only=True)


@pytest.fixture(scope="module", params=[*PAIRS])
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and what it was merged into."""
    root = tmp_path_factory.mktemp("merged")
    (root / "base").mkdir()
    (root / "domain").mkdir()
    base, domain = (make(root / name) for make, name in zip(PAIRS[request.param], ("base", "domain"), strict=True))
    merge_tokenizers(base, domain, root / "out")
    return base, root / "out"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_means_and_old_ones_keep_their_bits(
    merged: tuple[Path, Path], tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    model = model_of(merged[0], tmp_path / "model", dtype=dtype, tie_word_embeddings=tied)
    before, after = read_tensors(model), converted(*merged, model)
    old, new = map(load_tokenizer, merged)
    names = {EMBEDDING: "input_embedding.weight"} | ({} if tied else {HEAD: HEAD})
    for theirs, ours in names.items():
        assert_same_bits({"rows": after[ours][: old.vocab_size]}, {"rows": before[theirs]})
        assert len(after[ours]) == new.vocab_size
        for id in range(old.vocab_size, new.vocab_size):
            parts = old.cut(new.spell(id))
            mean = before[theirs][parts].double().mean(0)
            torch.testing.assert_close(
                after[ours][id], mean.to(dtype), rtol=1e-6 if dtype == torch.float32 else 4e-3, atol=1e-6
            )
    assert json.loads((tmp_path / "model.json").read_text())["vocab_size"] == new.vocab_size
    assert vocabulary_of(tmp_path / "model.pt") == new.vocabulary


def test_parts_are_those_of_a_text_around_them(merged: tuple[Path, Path]) -> None:
    """Where a text holds a new token, the base's tokens in its place are those whose mean its row is."""
    old, new = map(load_tokenizer, merged)
    seen = 0
    for text in (*DOMAIN_TEXTS[:3], *BASE_TEXTS[:4]):
        expected: list[int] = []
        for id in new.encode(text):
            expected += [id] if id in old.spellings else old.cut(new.spell(id))
            seen += id not in old.spellings
        if old.unknown_id not in expected:
            assert expected == old.encode(text)
    assert seen > 10


def test_logits_of_old_tokens_are_the_same_bits(tmp_path: Path) -> None:
    base = byte_level(tmp_path / "base", BASE_TEXTS)
    merge_tokenizers(base, byte_level(tmp_path / "domain", DOMAIN_TEXTS), tmp_path / "out")
    model = model_of(base, tmp_path / "model")
    converted(base, tmp_path / "out", model)
    with_reference(model, tmp_path / "model.pt", tmp_path / "back", tokenizer=tmp_path / "out")
    tokens = torch.tensor([load_tokenizer(base).encode(BASE_TEXTS[0])[:60]])
    found, expected = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, **IN_FLOAT32)(tokens).logits
        for folder in (tmp_path / "back", model)
    )
    rows = expected.shape[-1]
    # each logit is a product of its own, but matrices of other sizes may be summed in another order
    torch.testing.assert_close(found[..., :rows], expected, rtol=0, atol=1e-5)
    one = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", **IN_FLOAT32)
    one.lm_head.weight.data = one.lm_head.weight.data[:rows]
    assert torch.equal(one(tokens).logits, expected)
    assert found.shape[-1] == load_tokenizer(tmp_path / "out").vocab_size
    written = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    ids = load_tokenizer(tmp_path / "out").encode(DOMAIN_TEXTS[0])
    assert written.encode(DOMAIN_TEXTS[0], add_special_tokens=False) == ids


def test_rows_that_no_token_has_are_taken_first(tmp_path: Path) -> None:
    base = with_tokens(tmp_path / "base", ["<|im_end|>"], BASE_TEXTS)
    merge_tokenizers(base, byte_level(tmp_path / "domain", DOMAIN_TEXTS), tmp_path / "out")
    old, new = (load_tokenizer(tmp_path / name) for name in ("base", "out"))
    for rows, size in ((new.vocab_size + 7, new.vocab_size + 7), (old.vocab_size + 9, new.vocab_size)):
        model = model_of(base, tmp_path / f"model{rows}", rows)
        before, after = read_tensors(model)[HEAD], converted(base, tmp_path / "out", model)[HEAD]
        assert len(after) == size
        assert torch.equal(after[: old.vocab_size], before[: old.vocab_size])
        assert torch.equal(after[new.vocab_size :], before[new.vocab_size :])
        first = old.vocab_size
        torch.testing.assert_close(after[first], before[old.cut(new.spell(first))].mean(0))


def test_a_token_that_is_added_has_the_mean_of_its_text(tmp_path: Path) -> None:
    base = with_tokens(tmp_path / "base", [], BASE_TEXTS)
    new = with_tokens(tmp_path / "new", ["<|the end|>"], BASE_TEXTS)
    model = model_of(base, tmp_path / "model")
    before, after = read_tensors(model)[EMBEDDING], converted(base, new, model)["input_embedding.weight"]
    parts = load_tokenizer(base).encode("<|the end|>")
    assert len(parts) > 2 and len(after) == len(before) + 1
    torch.testing.assert_close(after[-1], before[parts].mean(0))


def test_another_dtype_rounds_means_once(tmp_path: Path) -> None:
    base = with_tokens(tmp_path / "base", [], BASE_TEXTS)
    new = with_tokens(tmp_path / "new", ["<|the end|>"], BASE_TEXTS)
    model = model_of(base, tmp_path / "model")
    before = read_tensors(model)[EMBEDDING]
    after = converted(base, new, model, dtype="BF16")["input_embedding.weight"]
    mean = torch.stack([before[part] for part in load_tokenizer(base).encode("<|the end|>")]).mean(0)
    assert torch.equal(after[-1], mean.bfloat16())
    assert torch.equal(after[:-1], before.bfloat16())


def test_what_is_held_is_a_few_rows(tmp_path: Path, llama: Path) -> None:
    """Pieces end where those of a file do, and rows can be asked for."""
    huggingface_to_bmtrain(llama, tmp_path / "m.pt")
    weight = read_pt(tmp_path / "m.pt")[HEAD]
    grown = resized(HEAD, weight, NewRows({96: [0, 1], 97: [5]}, 98))
    whole = torch.cat(list(grown.pieces())).view(grown.shape)
    assert torch.equal(grown.read_rows(95, 98).view(3, -1), whole[95:])
    assert torch.equal(whole[97], whole[5])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    base = byte_level(tmp_path / "base", BASE_TEXTS)
    domain = byte_level(tmp_path / "domain", DOMAIN_TEXTS)
    merge_tokenizers(base, domain, tmp_path / "out")
    model = model_of(base, tmp_path / "model")
    for pair, says in (
        ((domain, tmp_path / "out"), "in .*model/tokenizer.json, the model's tokenizer: give that"),
        ((tmp_path / "out", tmp_path / "out"), "ids, the model .* rows: it is not its tokenizer"),
        ((base, base), "adds no token to"),
        ((base, domain), r"domain/tokenizer.json: id \d+ is .*, but .* in .*base/tokenizer.json: make it with"),
    ):
        with pytest.raises(UserError, match=says) as error:
            converted(*pair, model)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tokenizer", "t"], "are given together"),
        (["--resize-from", "t"], "are given together"),
        (["--tokenizer", "t", "--resize-from", "b", "--peft-dir", "p"], "--tokenizer is for weights"),
    ],
)
def test_flags_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch, flags: list[str], says: str) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--huggingface-dir", "h", "--output", "o.pt", *flags])
    with pytest.raises(UserError, match=says):
        from_huggingface.main()


def test_a_sentencepiece_model_of_the_base_is_its_tokenizer_too(tmp_path: Path) -> None:
    base = sentencepiece_model(tmp_path / "b.model", BASE_TEXTS)
    merge_tokenizers(base, sentencepiece_model(tmp_path / "d.model", DOMAIN_TEXTS), tmp_path / "out")
    model = model_of(base, tmp_path / "model")
    assert len(converted(base, tmp_path / "out", model)[HEAD]) == load_tokenizer(tmp_path / "out").vocab_size
