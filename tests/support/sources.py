"""The project's Python files as syntax trees: what they import, how long they and their functions are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fm9g", "apps", "tools", "benchmarks", "tests")


@dataclass(frozen=True)
class Source:
    """A Python file."""

    path: Path  # from the repository's root
    lines: int
    tree: ast.Module

    @property
    def module(self) -> str:
        """The name it is imported by; a package's is its folder's."""
        return ".".join(part for part in self.path.with_suffix("").parts if part != "__init__")

    def functions(self) -> dict[str, int]:
        """{line and name: lines} of every function and method."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        found = [node for node in ast.walk(self.tree) if isinstance(node, kinds)]
        return {f"{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in found}

    def calls(self, name: str) -> list[int]:
        """The lines that call a function by this name, as written: `torch.load`."""
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return [node.lineno for node in calls if ast.unparse(node.func) == name]

    def imports(self) -> Iterator[str]:
        """What it imports, wherever in the file: `from a import b` is a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.path}:{node.lineno} imports by dots"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(root: Path = ROOT, folders: tuple[str, ...] = FOLDERS) -> list[Source]:
    """The Python files in these folders of a repository."""
    found = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Source(path.relative_to(root), text.count("\n"), ast.parse(text)))
    return found
