"""The mixture file: what it may hold, and that every mistake in it is named."""

import json

import pytest

from fm9g.data.stream.mixture import read_mixture
from fm9g.data.stream.record_formats import RECORD_FORMATS
from fm9g.errors import UserError

ENTRY = {"path": "prose", "abs_weight": 1, "task_name": "prose"}


@pytest.fixture
def mixture(tmp_path):
    """Writes a mixture and reads it."""

    def read(*entries):
        path = tmp_path / "mixture.json"
        path.write_text(json.dumps(list(entries)))
        return read_mixture(path)

    return read


def refused(read, *entries):
    with pytest.raises(UserError) as error:
        read(*entries)
    return str(error.value)


def test_shares_are_the_parts_of_all_weights(mixture):
    sources = mixture(*({**ENTRY, "abs_weight": weight, "task_name": str(weight)} for weight in (3, 1.0, 0)))
    assert [source.share for source in sources] == [0.75, 0.25, 0.0]


def test_defaults_of_an_entry(mixture):
    (source,) = mixture(ENTRY)
    assert source.transforms is None
    assert source.allow_repeat
    assert source.oversize_rule == "segment"
    assert source.epochs is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"transforms": "t.py"}, True),
        ({"transforms": ""}, False),
        ({"special_tokens": True}, True),
        ({"transforms": "t.py", "special_tokens": False}, False),
    ],
)
def test_special_tokens_are_written_by_transforms(mixture, changes, expected):
    (source,) = mixture({**ENTRY, **changes})
    assert source.special_tokens is expected


def test_paths_are_relative_to_the_mixture_file_or_absolute(mixture, tmp_path):
    relative, absolute = mixture(
        {**ENTRY, "path": "../prose", "transforms": "t/clean.py"}, {**ENTRY, "path": "/data/x", "task_name": "x"}
    )
    assert relative.path == tmp_path / "../prose"
    assert relative.transforms == tmp_path / "t/clean.py"
    assert str(absolute.path) == "/data/x"


def test_a_tilde_is_the_home_folder(mixture, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (source,) = mixture({**ENTRY, "path": "~/data", "transforms": "~/t.py"})
    assert (str(source.path), str(source.transforms)) == ("/home/me/data", "/home/me/t.py")


def test_dataset_name_stands_in_for_a_missing_task_name(mixture):
    entries = [{"path": "a", "abs_weight": 1, "dataset_name": "a"}, {**ENTRY, "dataset_name": "other"}]
    assert [source.task_name for source in mixture(*entries)] == ["a", "prose"]


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"allow_repeat": False}, 1.0),
        ({"max_epochs": 2.5}, 2.5),
        ({"allow_repeat": False, "max_epochs": 3}, 1.0),
        ({"allow_repeat": False, "max_epochs": 0.5}, 0.5),
        ({"max_epochs": None}, None),
    ],
)
def test_after_how_many_epochs_a_dataset_ends(mixture, changes, epochs):
    assert mixture({**ENTRY, **changes})[0].epochs == epochs


@pytest.mark.parametrize("empty", [None, ""])
def test_no_transforms_means_identity(mixture, empty):
    assert mixture({**ENTRY, "transforms": empty})[0].transforms is None


def test_informative_keys_are_kept(mixture):
    entry = {**ENTRY, "nlines": 10, "ave_tokens_per_line": 2.5, "total_tokens": None}
    assert mixture(entry)[0].declared == {"nlines": 10, "ave_tokens_per_line": 2.5}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"abs_weight": -1}, "abs_weight must be a number from 0 to 1e+15, not -1"),
        ({"abs_weight": float("inf")}, "abs_weight must be a number from 0 to 1e+15"),
        ({"abs_weight": float("nan")}, "abs_weight must be a number from 0 to 1e+15"),
        ({"abs_weight": "1"}, "abs_weight must be int or float, not '1'"),
        ({"abs_weight": True}, "abs_weight must be int or float, not True"),
        ({"abs_wieght": 1}, "unknown key 'abs_wieght' (did you mean 'abs_weight'?)"),
        ({"transform": "x.py"}, "unknown key 'transform' (did you mean 'transforms'?)"),
        ({"path": 7}, "path must be str, not 7"),
        ({"allow_repeat": 1}, "allow_repeat must be bool, not 1"),
        ({"special_tokens": "true"}, "special_tokens must be bool, not 'true'"),
        ({"oversize_rule": "cut"}, "oversize_rule 'cut' is not one of segment, head, drop"),
        ({"abs_weight": 10**400}, "abs_weight must be a number from 0 to 1e+15, not 1000"),
        ({"max_epochs": float("inf")}, "max_epochs must be a number from 0 to 1e+15, not inf"),
        ({"nlines": 10**400}, "nlines must be a number from 0 to 1e+15, not 1000"),
        ({"task_name": "a\ud800"}, "task_name holds half a surrogate pair, which is no text: 'a\\ud800'"),
        ({"max_epochs": 0}, "max_epochs must be above 0, not 0"),
        ({"max_epochs": -1.5}, "max_epochs must be a number from 0 to 1e+15, not -1.5"),
    ],
)
def test_a_bad_value_is_named_with_file_and_entry(mixture, tmp_path, changes, says):
    message = refused(mixture, {**ENTRY, "task_name": "good"}, {**ENTRY, **changes})
    assert message.startswith(f"{tmp_path / 'mixture.json'}, entry 2: ")
    assert says in message


@pytest.mark.parametrize("missing", ["path", "abs_weight", "task_name"])
def test_a_missing_key_is_named(mixture, missing):
    entry = {key: value for key, value in ENTRY.items() if key != missing}
    assert f"{missing} " in refused(mixture, entry)
    assert "is missing" in refused(mixture, entry)


def test_a_task_name_given_twice_is_refused(mixture):
    message = refused(mixture, ENTRY, {**ENTRY, "path": "other"})
    assert "entries 1 and 2 are all named 'prose': task_name must be unique" in message


def test_weights_that_sum_to_zero_are_refused(mixture):
    assert "the weights sum to zero" in refused(mixture, {**ENTRY, "abs_weight": 0})


def test_something_else_than_an_object_is_refused(mixture):
    assert "entry 2: expected an object, found str" in refused(mixture, ENTRY, "prose")


@pytest.mark.parametrize("content", ["[]", "{}", '{"path": "a"}'])
def test_a_mixture_is_a_list_with_an_entry(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(UserError, match="expected a list of datasets with at least one entry"):
        read_mixture(path)


def test_malformed_json_is_located(tmp_path):
    path = tmp_path / "m.json"
    path.write_text('[\n  {"path": "a",}\n]')
    with pytest.raises(UserError, match=r"m\.json, line 2, column \d+: not valid JSON"):
        read_mixture(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: no such file"):
        read_mixture(tmp_path / "nowhere.json")


def test_an_unknown_format_names_the_entry_the_known_ones_and_the_closest(mixture):
    assert mixture({**ENTRY, "format": "text"})[0].format == mixture(ENTRY)[0].format == "text"
    said = refused(mixture, ENTRY, {**ENTRY, "task_name": "other", "format": "txt"})
    assert "entry 2: format 'txt' is not one of text" in said
    assert "did you mean 'text'" in said


def test_a_transform_makes_text_and_no_other_format(mixture, monkeypatch):
    monkeypatch.setitem(RECORD_FORMATS, "turns", RECORD_FORMATS["text"])
    assert mixture({**ENTRY, "format": "turns"})[0].format == "turns"
    assert "format must be text, not turns" in refused(mixture, {**ENTRY, "format": "turns", "transforms": "t.py"})
