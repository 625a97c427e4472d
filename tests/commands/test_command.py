"""`fm9g VERB`: every verb is there, does what its script in tools/ does, and imports no more than it needs."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fm9g.__main__ as command
from fm9g import commandline
from fm9g.commands import convert, env, train
from fm9g.errors import UserError
from fm9g.training.settings import COMMAND_LINE

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "text": "convert_txt2jsonl",
    "index": "convert_json2index",
    "check": "check_index",
    "inspect": "inspect_index",
    "preview": "preview_mixture",
    "prepare": "prepare_data",
    "conversations": "convert_to_conv_data",
    "sharegpt": "convert_dataset",
    "mixture": "convert_dataset_info",
    "tokenizer": "train_tokenizer",
    "merge-tokenizers": "merge_tokenizers",
    "tokenizer-json": "tokenizer_json",
    "generate": "generate",
    "serve": "serve",
    "convert to-huggingface": "bmtrain_2_hgface",
    "convert merge-peft": "merge_peft_adapter",
    "convert from-huggingface": "hgface_2_bmtrain",
}
EXPORT_OF_NONE = "--huggingface-ref-dir=~/none"


@pytest.fixture
def fm9g(monkeypatch, capsys):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fm9g", *map(str, words)])
        status = 0
        try:
            command.main()
        except SystemExit as exit:
            status = int(exit.code or 0)
        return status, *capsys.readouterr()

    return run


def python(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_without_a_verb_all_are_listed_with_a_line_each(fm9g, words):
    status, out, _ = fm9g(*words)
    assert status == 0
    listed = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert listed.keys() == command.VERBS.keys()
    assert listed.keys() == {word.split()[0] for word in SCRIPTS} | {"train", "env"}
    assert all(len(line) < 100 for line in listed.values())


def test_messages_name_the_script_where_there_is_one_else_the_verb(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for verb, script in SCRIPTS.items():
        assert commandline.command(verb) == f"python tools/{script}.py"
        assert (ROOT / "tools" / f"{script}.py").is_file()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "tools/check_index.py"), "x"])
    assert commandline.command("prepare") == f"python {ROOT}/tools/prepare_data.py"
    monkeypatch.setattr(sys, "argv", ["fm9g index"])
    assert commandline.command("convert to-huggingface") == "fm9g convert to-huggingface"


def test_an_unknown_verb_names_the_closest(fm9g):
    status, _, err = fm9g("indx")
    assert status == 1
    assert err == "error: fm9g: no command 'indx' (did you mean 'index'?); fm9g --help lists them\n"
    status, _, err = fm9g("convert", "to-hugingface")
    assert status == 1
    assert "did you mean 'to-huggingface'" in err


@pytest.mark.parametrize("verb", [*SCRIPTS, "train", "env"])
def test_help_of_every_verb(fm9g, verb):
    status, out, _ = fm9g(*verb.split(), "--help")
    assert status == 0
    assert "%(prog)s" not in out
    assert out.startswith(f"usage: fm9g {verb} ") or verb == "train"
    assert "--batch_size" in out or verb != "train"


def test_scripts_run_the_same_code():
    modules = {**command.VERBS, **{f"convert {word}": found for word, found in convert.DIRECTIONS.items()}}
    for verb, script in SCRIPTS.items():
        module = importlib.import_module(modules[verb][0])
        namespace: dict[str, object] = {"__name__": "script", "__file__": str(ROOT / "tools" / f"{script}.py")}
        exec(compile((ROOT / "tools" / f"{script}.py").read_text("utf-8"), script, "exec"), namespace)
        assert namespace["main"] is module.main, script


def test_verb_and_script_write_the_same_index(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"input": "", "output": "hello"}\n{"input": "a", "output": "b c"}\n')
    words = ("--path", "a.jsonl", "--language", "en", "--output")
    verb = python("-m", "fm9g", "index", *words, "verb", cwd=tmp_path)
    script = python(ROOT / "tools/convert_json2index.py", *words, "script", cwd=tmp_path)
    assert verb.returncode == script.returncode == 0, verb.stderr + script.stderr
    assert verb.stdout.replace("verb", "script") == script.stdout
    for name in ("data.jsonl", "index"):
        assert (tmp_path / "verb" / name).read_bytes() == (tmp_path / "script" / name).read_bytes()
    script.stdout = python(ROOT / "tools/check_index.py", "script", cwd=tmp_path).stdout
    assert python("-m", "fm9g", "check", "script", cwd=tmp_path).stdout == script.stdout != ""


def test_data_verbs_do_not_import_torch(tmp_path):
    program = """
import importlib, sys
from fm9g.__main__ import VERBS
assert not [name for name in sys.modules if name.startswith("fm9g.commands.")]
for verb in ("index", "check", "inspect", "prepare", "tokenizer", "train"):
    importlib.import_module(VERBS[verb][0])
    assert "torch" not in sys.modules, verb
"""
    done = python("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_home_folder_in_paths(fm9g, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"input": "", "output": "hello"}\n' * 3)
    assert fm9g("index", "--path=~/a.jsonl", "--language=en", "--output=~/index", "--workers=1")[0] == 0
    assert fm9g("check", "~/index")[0] == 0
    assert fm9g("inspect", "~/index", "--show", "0")[0] == 0
    assert fm9g("tokenizer", "--path=~/a.jsonl", "--vocab-size=258", "--output=~/tokenizer")[0] == 0
    (tmp_path / "t.jsonl").write_text('{"text": "hello"}\n')
    assert fm9g("prepare", "--format=text", "--path=~/t.jsonl", "--output=~/p.jsonl")[0] == 0
    assert json.loads((tmp_path / "p.jsonl").read_text()) == {"input": "", "output": "hello"}
    for verb, *words in (
        ("convert", "from-huggingface", "--huggingface-dir=~/none", "--output=~/x.pt"),
        ("convert", "to-huggingface", "--bmtrain-ckpt-path=~/x.pt", "--huggingface-save-dir=~/y", EXPORT_OF_NONE),
    ):
        status, _, err = fm9g(verb, *words)
        assert status == 1
        assert f"{tmp_path}/" in err
        assert "~" not in err
    status, _, err = fm9g("check", "~nobody.of.this.name/index")
    assert status == 2
    assert err.endswith("there is no home folder of that name; write the whole path\n")


# train


def test_train_starts_the_ranks_of_an_installed_package(monkeypatch, tmp_path):
    """Configs of the current folder come first; what is started is a module, so no repository is needed.

    GPUS_PER_NODE counts more than a table that is still exported, and the command line more than both.
    """
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "tools/check_index.py"), "x"])
    assert commandline.command("prepare") == f"python {ROOT}/tools/prepare_data.py"
    monkeypatch.setattr(sys, "argv", ["fm9g index"])
    monkeypatch.setattr(os, "environ", {**os.environ, "GPUS_PER_NODE": "3"})
    os.environ["FM9G_ARGS_TABLE"] = "n_gpus=5"
    monkeypatch.setattr(train, "check", lambda settings, app: started.append(settings))
    monkeypatch.setattr(train, "launch", started.append)
    monkeypatch.setattr(sys, "argv", ["fm9g train", "--config", "mine", "--lr", "1e-3"])
    for folder, text in (("model_configs", "{}"), ("train_configs", '{"batch_size": 7}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.json").write_text(text)
    train.main()
    settings, arguments = started
    assert (settings.batch_size, settings.n_gpus) == (7, 3)
    assert settings.source("n_gpus") == COMMAND_LINE
    assert arguments[1:6] == ["--nproc_per_node=3", "--max_restarts=0", "-m", "--", "fm9g.commands.pretrain"]
    assert arguments[6:8] == ["--n_gpus=3", "--config"]
    started.clear()
    sys.argv += ["--n_gpus", "2"]
    train.main()
    assert (started[0].n_gpus, started[1][1]) == (2, "--nproc_per_node=2")


def test_train_says_what_an_installed_package_lacks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "tools/check_index.py"), "x"])
    assert commandline.command("prepare") == f"python {ROOT}/tools/prepare_data.py"
    monkeypatch.setattr(sys, "argv", ["fm9g index"])
    for module in (train, sys.modules["fm9g.training.settings"]):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path / "site-packages")
    monkeypatch.delenv("FM9G_ARGS_TABLE", raising=False)
    monkeypatch.delenv("GPUS_PER_NODE", raising=False)
    monkeypatch.setattr(sys, "argv", ["fm9g train", "--config", "tiny"])
    with pytest.raises(UserError, match=r"no model_configs/tiny\.json in this folder, and fm9g is installed without"):
        train.main()


# env


def test_env_tells_versions_and_hardware_and_no_one(fm9g, monkeypatch):
    monkeypatch.setenv("FM9G_BACKEND", "cpu")
    status, out, _ = fm9g("env")
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert {"fm9g", "python", *env.PACKAGES, "backend", "gpus", "cpu", "memory", "system"} <= lines.keys() | {"gpus"}
    assert lines["numpy"] == importlib.metadata.version("numpy")
    assert lines["backend"] == "cpu (FM9G_BACKEND)"
    for secret in (str(Path.home()), str(ROOT), os.path.dirname(sys.executable)):
        assert len(secret) < 3 or secret not in out


def test_env_works_where_packages_are_missing(fm9g, monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "torch", None)
    status, out, _ = fm9g("env")
    assert status == 0
    assert out.count("not installed") == len(env.PACKAGES)
    assert "torch cannot be imported" in out


def test_env_keeps_folders_to_itself():
    assert env.without_folders("no C.so in /home/jane/x/bmtrain: and/or") == "no C.so in …/bmtrain: and/or"
