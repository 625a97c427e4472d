"""Importing CUDA code on a machine without a GPU: its CUDA names are rewritten as it is imported.

BMTrain names the CUDA device in a handful of forms; each is one case of `Retarget`. Only modules that
a `RetargetFinder` was made for are rewritten: torch and everything else stay as they are.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fm9g.runtime.cpu import device

DEVICE_NAME = "__fm9g_device__"
_CUDA_STRING = re.compile(r"cuda(:\d+)?")
_CUDA_TEMPLATE = re.compile(r"cuda:(%[ds]|\{\w*\})?")  # "cuda:%d" % rank, "cuda:{}".format(rank), "cuda:" + str(rank)
_TENSOR_METHODS = {"cuda": "to_device", "record_stream": "record_stream", "pin_memory": "pin_memory"}


def _device_attribute(name: str) -> ast.expr:
    return ast.Attribute(ast.Name(DEVICE_NAME, ast.Load()), name, ast.Load())


def _is_torch_cuda(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "cuda"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    )


class Retarget(ast.NodeTransformer):
    """Rewrites a syntax tree so that what it did on a CUDA device happens on the CPU."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """`"cuda"`, `"cuda:0"`, and `"cuda:"` that a number is still put into (torch knows a `cpu:0`)."""
        if not isinstance(node.value, str):
            return node
        if _CUDA_STRING.fullmatch(node.value):
            return ast.copy_location(ast.Constant("cpu"), node)
        if _CUDA_TEMPLATE.fullmatch(node.value):
            return ast.copy_location(ast.Constant(node.value.replace("cuda", "cpu", 1)), node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """`f"cuda:{rank}"` is the one CPU."""
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and str(first.value).startswith("cuda:"):
            return ast.copy_location(ast.Constant("cpu"), node)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`x.cuda()`, `x.record_stream(s)`, `x.pin_memory()`, and the keyword `pin_memory=True`."""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else None
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "pin_memory"]
        if method in _TENSOR_METHODS and isinstance(node.func, ast.Attribute):
            arguments = [node.func.value, *node.args]
            call = ast.Call(_device_attribute(_TENSOR_METHODS[method]), arguments, node.keywords)
            return ast.copy_location(call, node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`torch.cuda`, `torch.random.fork_rng` and `x.is_cuda`."""
        if _is_torch_cuda(node):
            return ast.copy_location(ast.Name(DEVICE_NAME, ast.Load()), node)
        if ast.unparse(node) == "torch.random.fork_rng":
            return ast.copy_location(_device_attribute("fork_rng"), node)
        self.generic_visit(node)
        if node.attr == "is_cuda" and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Call(_device_attribute("is_on_device"), [node.value], []), node)
        return node

    def visit_Import(self, node: ast.Import) -> Any:
        """`import torch.cuda as name`."""
        renamed = [alias for alias in node.names if alias.name == "torch.cuda" and alias.asname]
        kept = [alias for alias in node.names if alias not in renamed]
        return ([ast.Import(kept)] if kept else []) + [_assign(str(a.asname), None) for a in renamed] or node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        """`from torch.cuda import Stream` and `from torch import cuda`."""
        if node.module == "torch.cuda":
            return [_assign(alias.asname or alias.name, alias.name) for alias in node.names]
        if node.module == "torch":
            kept = [alias for alias in node.names if alias.name != "cuda"]
            found = [_assign(alias.asname or "cuda", None) for alias in node.names if alias.name == "cuda"]
            return ([ast.ImportFrom("torch", kept, 0)] if kept else []) + found or node
        return node


def _assign(name: str, attribute: str | None) -> ast.stmt:
    value = _device_attribute(attribute) if attribute else ast.Name(DEVICE_NAME, ast.Load())
    return ast.Assign([ast.Name(name, ast.Store())], value)


def retargeted_code(source: bytes | str, path: str) -> CodeType:
    """Compile Python source with its CUDA names rewritten."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # BMTrain's docstrings hold LaTeX backslashes
        tree = Retarget().visit(ast.parse(source, path))
        return compile(ast.fix_missing_locations(tree), path, "exec")


class RetargetLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from rewritten source, past any bytecode cached from the original."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return retargeted_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[DEVICE_NAME] = device
        super().exec_module(module)


class RetargetFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that `wanted(name, file)` accepts and has them loaded by RetargetLoader."""

    def __init__(self, wanted: Callable[[str, Path], bool]) -> None:
        self._wanted = wanted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader or spec.origin is None:
            return None
        if not self._wanted(fullname, Path(spec.origin)):
            return None
        spec.loader = RetargetLoader(fullname, spec.origin)
        return spec


def retarget_imports(wanted: Callable[[str, Path], bool]) -> None:
    """From now on, rewrite the modules for which `wanted(name, file)` holds as they are imported."""
    sys.meta_path.insert(0, RetargetFinder(wanted))
