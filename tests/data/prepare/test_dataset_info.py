"""A dataset_info.json of LLaMA-Factory: its files, columns and tags as conversations."""

from __future__ import annotations

import json

import pytest

from fm9g.data.chat.conversation import Conversation, Turn, read_conversation
from fm9g.data.prepare.dataset_info import describe, write_records
from fm9g.errors import UserError

ROUND = (Turn("user", "q"), Turn("assistant", "a"))


@pytest.fixture
def written(tmp_path):
    """The records of ours that a dataset's are written as."""

    def records(entry, found, suffix="json"):
        (tmp_path / f"set.{suffix}").write_text(json.dumps(found))
        (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": f"set.{suffix}", **entry}}))
        (dataset,) = describe(tmp_path / "dataset_info.json", ["x"])
        write_records(dataset, dataset.files[0], tmp_path / "out.jsonl")
        return dataset.format, [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]

    return records


@pytest.mark.parametrize(
    ("entry", "record", "expected"),
    [
        ({}, {"instruction": "q", "input": "", "output": "a"}, Conversation(ROUND)),
        ({}, {"instruction": "q", "output": "a", "system": "not read"}, Conversation(ROUND)),
        (
            {"columns": {"prompt": "Q", "response": "A", "system": "S", "history": "H"}},
            {"Q": "q", "A": "a", "S": "s", "H": [["q0", "a0"]], "input": "not read"},
            Conversation((Turn("user", "q0"), Turn("assistant", "a0"), *ROUND), "s"),
        ),
        (
            {"formatting": "sharegpt"},
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            Conversation(ROUND),
        ),
        (
            {
                "formatting": "sharegpt",
                "columns": {"messages": "talk", "tools": "T"},
                "tags": {
                    "role_tag": "who",
                    "content_tag": "what",
                    "user_tag": "U",
                    "assistant_tag": "B",
                    "system_tag": "S",
                },
            },
            {"talk": [{"who": w, "what": t} for w, t in (("S", "s"), ("U", "q"), ("B", "a"))], "T": "f()"},
            Conversation(ROUND, "s", "f()"),
        ),
        (
            {"formatting": "openai", "columns": {"messages": "messages"}},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            Conversation(ROUND),
        ),
    ],
)
def test_columns_and_tags_are_where_texts_are(written, entry, record, expected):
    form, (made,) = written(entry, [record])
    assert form == "chat" and read_conversation(made) == expected


def test_a_prompt_alone_is_text(written):
    assert written({"columns": {"prompt": "text"}}, [{"text": "t"}]) == ("text", [{"input": "", "output": "t"}])


def test_what_is_no_conversation_is_left_to_whoever_reads_it(written):
    turns = [{"from": "human", "value": "q"}, {"from": "gtp", "value": "a"}, 3]
    _, (made,) = written({"formatting": "sharegpt"}, [{"conversations": turns}])
    with pytest.raises(UserError, match="turn 2: unknown role 'gtp'"):
        read_conversation(made)


def test_a_folder_is_all_of_its_files(tmp_path):
    (tmp_path / "parts").mkdir()
    for name in ("b.json", "a.json", ".hidden"):
        (tmp_path / "parts" / name).write_text("[]")
    (tmp_path / "dataset_info.json").write_text('{"x": {"file_name": "parts"}}')
    (dataset,) = describe(tmp_path / "dataset_info.json", ["x"])
    assert [file.name for file in dataset.files] == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ([], "x: expected an object"),
        ({}, "x: file_name is missing"),
        ({"file_name": ""}, "x: file_name must be the name of a file or a folder, not ''"),
        ({"hf_hub_url": "a/b"}, "x: hf_hub_url names a place on the net: download its file"),
        ({"file_name": "nowhere.json"}, "x: file_name: .*nowhere.json: no such file or folder"),
        ({"file_name": "set.json", "formating": "alpaca"}, "x: unknown key 'formating'.*'formatting'"),
        (
            {"file_name": "set.json", "formatting": "alpacca"},
            "x: formatting 'alpacca' is not one of alpaca, sharegpt, openai",
        ),
        ({"file_name": "set.json", "ranking": True}, "x: ranking: it holds preferences"),
        ({"file_name": "set.json", "columns": {"prompt": "p", "images": "i"}}, "x: columns: images is nothing that"),
        ({"file_name": "set.json", "columns": {"promt": "p"}}, "x: columns: unknown key 'promt'.*'prompt'"),
        ({"file_name": "set.json", "columns": {"query": "p"}}, "x: columns: prompt is missing"),
        ({"file_name": "set.json", "columns": {"prompt": 1}}, "x: columns: prompt must be a text, not 1"),
        (
            {"file_name": "set.json", "formatting": "sharegpt", "tags": {"role_tag": "r"}},
            "x: tags: content_tag is missing",
        ),
    ],
)
def test_what_cannot_be_followed_is_named(tmp_path, entry, says):
    (tmp_path / "set.json").write_text("[]")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(UserError, match=f"dataset_info.json, {says}"):
        describe(tmp_path / "dataset_info.json", ["x"])


def test_an_unknown_dataset_is_named_with_those_that_are_there(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"alpaca": {}, "wiki": {}}')
    with pytest.raises(UserError, match=r"no dataset 'alpca'.*'alpaca'.*; there are alpaca, wiki"):
        describe(tmp_path / "dataset_info.json", ["alpca"])
