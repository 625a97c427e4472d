"""tools/generate.py as users run it."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fm9g import runtime
from tests.serve.conftest import Forms
from tests.support.chats import RECORDS, answers
from tests.support.places import write_jsonl
from tests.support.ranks import REPOSITORY, run_ranks
from tests.support.tools import run_tool, run_tool_here

TOOL = "generate.py"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime of this process has begun."""
    monkeypatch.setattr(runtime, "initialize", lambda *args: None)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").removesuffix("\n").split("\n")]


def test_every_record_of_a_file_is_answered(forms: Forms, questions: Path, tmp_path: Path) -> None:
    words = ["--model", str(forms.run), "--dev_file", questions.name, "--output_file", "out/said.jsonl"]
    done = run_tool_here(TOOL, [*words, "--batch_size", "3"], tmp_path)
    assert done.returncode == 0, done.output
    written = lines(tmp_path / "out/said.jsonl")
    assert [line["target"] for line in written] == [answers(record)[-1] for record in RECORDS[:7]]
    assert [line["input"] for line in written] == [r["conversations"][-2]["value"] for r in RECORDS[:7]]
    assert all(line["predict"] for line in written)
    again = run_tool_here(TOOL, words, tmp_path)
    assert (again.returncode, again.output) == (1, "error: out/said.jsonl exists; --overwrite replaces it\n")
    theirs = ["--model_name_or_path", str(forms.weights.parent), "--dev_file", questions.name, "--dev_batch_size", "7"]
    theirs += ["--max_length", "512", "--output_file", "other.jsonl"]
    assert run_tool_here(TOOL, theirs, tmp_path).returncode == 0
    assert lines(tmp_path / "other.jsonl") == written


def test_records_may_wait_for_an_answer_and_hold_half_a_character(forms: Forms, tmp_path: Path) -> None:
    turns = RECORDS[1]["conversations"]
    (tmp_path / "dev.jsonl").write_text(
        json.dumps({"conversations": turns[:-1]})
        + "\n"
        + json.dumps({"question": "Why\ud83d?", "answer": "So."})
        + "\n"
    )
    words = ["--model", str(forms.run / "latest"), "--dev_file", "dev.jsonl", "--output_file", "said.jsonl"]
    assert run_tool_here(TOOL, words, tmp_path).returncode == 0
    waiting, other = lines(tmp_path / "said.jsonl")
    assert (waiting["input"], waiting["target"]) == (turns[-2]["value"], "") and waiting["predict"]
    assert (other["input"], other["target"]) == ("Why\ufffd?", "So.")


def test_texts_without_a_template(forms: Forms, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"input": "What is", "output": "a lane?"}, {"output": "nothing asked"}])
    words = ["--model", str(forms.folder), "--template", "none", "--dev_file", "texts.jsonl", "--max_new_tokens", "4"]
    assert run_tool_here(TOOL, [*words, "--output_file", "said.jsonl"], tmp_path).returncode == 0
    assert [line["target"] for line in lines(tmp_path / "said.jsonl")] == ["a lane?", "nothing asked"]


def test_prompts(forms: Forms, tmp_path: Path) -> None:
    model = ["--model", str(forms.folder), "--template", "tokenizer"]
    questions = [record["conversations"][0]["value"] for record in RECORDS[:2]]
    one = run_tool_here(TOOL, [*model, "--prompt", questions[0]], tmp_path)
    several = run_tool_here(TOOL, [*model, "--prompt", *questions], tmp_path)
    assert several.output.startswith(f"=== {questions[0]}\n{one.output}=== {questions[1]}\n")
    lines_of = "\ufeff" + "\r\n\n".join([*(q.replace("\n", " ") for q in questions), "one\u2028line\x0c"])
    (tmp_path / "prompts.txt").write_text(lines_of, "utf-8", newline="")
    run_tool_here(TOOL, [*model, "--prompt_file", "prompts.txt", "--output_file", "p.jsonl"], tmp_path)
    first, *_, last = lines(tmp_path / "p.jsonl")
    assert first == {"input": questions[0], "predict": one.output.removesuffix("\n")}
    assert last["input"] == "one\u2028line\x0c" and len(lines(tmp_path / "p.jsonl")) == 3


def test_a_conversation(forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is put after what was said before, as training has it, until that is forgotten."""
    first, second = (record["conversations"][0]["value"].strip() for record in RECORDS[:2])
    said = iter([first, second, "/clear", second, "", "/system Be brief.", second, "/exit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(said))
    done = run_tool_here(TOOL, ["--model", str(forms.run), "--chat", "--max_new_tokens", "16"], tmp_path)
    assert done.returncode == 0
    asked = [first, second, second, second]
    shown = [line for line in done.output.splitlines() if line and not line.startswith("/")]
    assert shown[::2] == asked and all(shown[1::2])  # what is not typed is shown, too
    assert next(said, None) is None


def test_a_conversation_ends_with_its_input(forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", closed)
    assert run_tool_here(TOOL, ["--model", str(forms.run), "--chat"], tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give one of --prompt, --prompt_file, --dev_file and --chat"),
        (["--prompt", "a", "--chat"], "give one of"),
        (["--dev_file", "dev.jsonl"], "--dev_file needs --output_file"),
        (["--chat", "--output_file", "x"], "--output_file has no use with --chat"),
        (["--chat", "--template", "none"], "--chat needs a template"),
        (["--prompt", "a", "--system", "b"], "--system is for questions"),
        (["--prompt", "a", "--batch_size", "0"], "batch_size must be at least 1"),
        (["--prompt", "a", "--temperature", "-1"], "temperature must be at least 0"),
        (["--prompt", "a", "--template", "chatmk"], "template 'chatmk': .*did you mean 'chatml'"),
        (["--prompt", "a", "--dtype", "int8"], "dtype must be one of"),
        (["--dev_file", "none.jsonl", "--output_file", "x"], "none.jsonl"),
        (
            ["--dev_file", "bad.jsonl", "--output_file", "x"],
            r"bad.jsonl, record 1 \(line 2\): turn 2: user follows user",
        ),
        (["--dev_file", "bad.jsonl", "--output_file", "bad.jsonl", "--overwrite"], "is the file that is read"),
        (["--prompt", "a", "--output_file", "."], r"\.: is a folder; name a file"),
        (["--prompt", "a", "--output_file", "bad.jsonl/x"], "bad.jsonl is not a writable folder"),
        (["--prompt_file", "empty.txt"], "empty.txt: holds no text"),
    ],
)
def test_bad_input_is_refused_in_a_line(words: list[str], says: str, forms: Forms, tmp_path: Path) -> None:
    asked = {"from": "human", "value": "?"}
    write_jsonl(tmp_path / "bad.jsonl", [RECORDS[0], {"conversations": [asked, asked]}])
    (tmp_path / "empty.txt").write_text(" \n\n")
    done = run_tool_here(TOOL, ["--model", str(forms.run), *words], tmp_path)
    assert done.returncode == 1
    (error,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert re.search(says, error), error


LOCKSTEP = """
import fm9g.serve.text_model
fm9g.serve.text_model.fits = lambda model: {fits}
from fm9g.commands.generate import main
from fm9g.errors import run_command
run_command(main)
"""


@pytest.mark.parametrize("fits", [True, False])
def test_several_ranks_say_the_same(fits: bool, forms: Forms, questions: Path, tmp_path: Path) -> None:
    words = ["--model", str(forms.adapters), "--dev_file", str(questions), "--batch_size", "2", "--output_file"]
    assert run_tool_here(TOOL, [*words, str(tmp_path / "one.jsonl")], tmp_path).returncode == 0
    done = run_ranks(LOCKSTEP.format(fits=fits), 2, tmp_path, [*words, tmp_path / "two.jsonl"])
    assert done.returncode == 0, done.output
    assert lines(tmp_path / "two.jsonl") == lines(tmp_path / "one.jsonl")
    assert ("gathered for every token" in done.output) is not fits


def test_as_a_program(forms: Forms, tmp_path: Path) -> None:
    words = ["--model", str(forms.run), "--template", "chatml", "--prompt", "Why?", "--num_beams", "3"]
    done = run_tool(TOOL, words, tmp_path, {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0
    assert done.output.strip()
