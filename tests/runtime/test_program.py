"""`-m fm9g.runtime SCRIPT`: which files are rewritten, and what a person sees of an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ranks import run_ranks


def test_a_traceback_shows_the_users_line(tmp_path: Path) -> None:
    script = "import torch\n\nx = torch.ones(2, device='cuda:0')\nraise RuntimeError(f'{x.device} here')  # line four\n"
    result = run_ranks(script, 1, tmp_path, module="fm9g.runtime")
    assert result.returncode == 1
    assert f'{tmp_path / "program.py"}", line 4' in result.output
    assert "RuntimeError: cpu here" in result.output


def test_modules_beside_the_script_are_rewritten_and_nothing_else(tmp_path: Path) -> None:
    """`-m fm9g.runtime` reaches the user's modules, below the script's folder, but neither torch nor packages."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "layers.py").write_text("import torch\nx = torch.ones(2, device='cuda')\n")
    (tmp_path / "venv" / "site-packages").mkdir(parents=True)
    (tmp_path / "venv" / "site-packages" / "installed.py").write_text("NAME = 'cuda'\n")
    (tmp_path / "elsewhere").mkdir()
    result = run_ranks(
        """
        import sys
        import torch
        from package.layers import x
        sys.path.append("venv/site-packages")
        import installed
        import torch.utils.checkpoint

        assert x.is_cuda and x.device.type == "cuda"
        assert len(installed.NAME) == 4
        assert sys.modules["torch.cuda"].Stream is not torch.cuda.Stream
        assert sys.argv[1:] == ["--flag", "value"]
        assert __name__ == "__main__" and __file__.endswith("program.py")
        print("checked", sys.modules["__main__"].x is x)
        """,
        1,
        tmp_path,
        args=("--flag", "value"),
        module="fm9g.runtime",
    )
    assert result.returncode == 0, result.output
    assert "checked True" in result.output


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    result = run_ranks(tmp_path / "absent.py", 1, tmp_path, module="fm9g.runtime")
    assert result.returncode == 1
    assert f"error: {tmp_path / 'absent.py'}: no such script" in result.output


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"FM9G_BACKEND": "gpu"}, "FM9G_BACKEND='gpu': use one of native, portable, cpu (did you mean 'cpu'?)"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE='²' must be a whole number of at least 1"),
        ({"FM9G_HEARTBEAT_SECONDS": "soon"}, "FM9G_HEARTBEAT_SECONDS='soon' must be a number of seconds above 0"),
    ],
)
def test_a_wrong_variable_is_one_line(env: dict[str, str], says: str, tmp_path: Path) -> None:
    result = run_ranks("import bmtrain", 1, tmp_path, env=env, module="fm9g.runtime")
    assert result.returncode == 1
    assert result.output.splitlines() == [f"error: {says}"]


def test_a_syntax_error_is_shown_as_python_does(tmp_path: Path) -> None:
    result = run_ranks("def f(:\n    pass\n", 1, tmp_path, module="fm9g.runtime")
    assert result.returncode == 1
    assert result.output.startswith(f'  File "{tmp_path / "program.py"}", line 1\n')
    assert result.output.endswith("SyntaxError: invalid syntax\n")


def test_a_programs_own_file_error_keeps_its_traceback(tmp_path: Path) -> None:
    result = run_ranks("open('absent.txt')", 1, tmp_path, module="fm9g.runtime")
    assert result.returncode == 1
    assert 'program.py", line 1' in result.output
    assert "FileNotFoundError" in result.output
