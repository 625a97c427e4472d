"""Running CUDA code on a machine without a GPU: rewriting its source as it is compiled.

`torch.cuda` becomes a stand-in, methods such as `.cuda()` become calls of it, and arguments that may name a device
pass through it. Other strings and numbers of the program stay what they are. torch itself stays as it is; which
modules are rewritten is in imports.py.
"""

from __future__ import annotations

import ast
import copy
import re
import warnings
from types import CodeType
from typing import Any

from fm9g.runtime.devices import DEVICE_KEYWORDS, DEVICE_NAME, KEYWORDS

_CUDA_TEXT = re.compile(r"cuda(:.*)?")  # "cuda:%d" % rank, "cuda:{}".format(rank), "cuda:" + str(rank)
_CUDA_TYPE = re.compile(r"torch\.cuda\.(\w+(Tensor|Storage))")
_SUBMODULES = {"torch.cuda.memory", "torch.cuda.random", "torch.cuda.streams"}  # their names are torch.cuda's, too
_ATTRIBUTES = {"cuda": "cuda_of", "is_cuda": "is_on_device", "type": "type_of"}
_METHODS = {"cuda": "to_device", "record_stream": "record_stream", "pin_memory": "pin_memory", "to": "to"}
_DEVICE_FIRST = {"torch.set_default_device", "torch.Generator"}
_FUNCTIONS = {"torch.device": "new_device", "torch.load": "load", "torch.random.fork_rng": "fork_rng"}


def _stand_in(*names: str) -> ast.expr:
    """`__fm9g_device__.a.b` for the names a, b."""
    node: ast.expr = ast.Name(DEVICE_NAME, ast.Load())
    for name in names:
        node = ast.Attribute(node, name, ast.Load())
    return node


def _names_of_torch(tree: ast.AST) -> dict[str, str]:
    """What the module's imports call torch and its parts: {local name: "torch.…"}."""
    names = {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name.partition(".")[0] == "torch":
                    names[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch" and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _may_be_device(node: ast.expr) -> bool:
    """Whether an argument spells a CUDA device, or its name speaks of one."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(_CUDA_TEXT.fullmatch(node.value))
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        return "device" in name.lower() or name in ("dev", "map_location")
    if isinstance(node, ast.Subscript):
        key = node.slice.value if isinstance(node.slice, ast.Constant) else ""
        return _may_be_device(node.value) or "device" in str(key).lower()
    if isinstance(node, ast.IfExp):
        return _may_be_device(node.body) or _may_be_device(node.orelse)
    if isinstance(node, ast.JoinedStr | ast.BoolOp):
        return any(map(_may_be_device, node.values))
    if isinstance(node, ast.BinOp):
        return _may_be_device(node.left)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "format" and _may_be_device(node.func.value)
    return False


def _can_be_repeated(node: ast.expr) -> bool:
    """Whether evaluating `node` once more does nothing else: names, their attributes and items, and super()."""
    if isinstance(node, ast.Attribute):
        return _can_be_repeated(node.value)
    if isinstance(node, ast.Subscript):
        return _can_be_repeated(node.value) and isinstance(node.slice, ast.Constant | ast.Name)
    is_super = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    return is_super or isinstance(node, ast.Name)


def _gets_attribute(node: ast.Call) -> bool:
    """Whether a call is `getattr(x, "cuda")`, or of another of _ATTRIBUTES, with or without a default."""
    if not (isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) in (2, 3)):
        return False
    return isinstance(node.args[1], ast.Constant) and node.args[1].value in _ATTRIBUTES


class Retarget(ast.NodeTransformer):
    """Rewrites a syntax tree so that what it did on a CUDA device happens on the CPU."""

    def __init__(self, tree: ast.AST) -> None:
        self._names = _names_of_torch(tree)
        self._in_patterns: set[ast.AST] = set()

    def _path(self, node: ast.AST) -> str:
        """`torch.cuda.amp` for an expression that means it, or "" for one that does not begin with torch."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, "")
        if isinstance(node, ast.Attribute) and (path := self._path(node.value)):
            return f"{path}.{node.attr}"
        return ""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """`"torch.cuda.FloatTensor"` names a type, wherever it stands."""
        found = _CUDA_TYPE.fullmatch(node.value) if isinstance(node.value, str) else None
        return ast.copy_location(ast.Constant(f"torch.{found[1]}"), node) if found else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Methods that move tensors, functions that make devices, and devices given to anything else."""
        path, function = self._path(node.func), node.func
        if _gets_attribute(node):
            node.func = ast.copy_location(_stand_in(_ATTRIBUTES[node.args.pop(1).value]), function)  # type: ignore[attr-defined]
            return self.generic_visit(node)
        if isinstance(function, ast.Attribute) and path != "torch.random.fork_rng":
            function.value = self.visit(function.value)  # the attribute itself is a method here: x.type()
        else:
            node.func = function = self.visit(function)
        maybe_devices = [_may_be_device(argument) for argument in node.args]
        keywords = [_may_be_device(keyword.value) for keyword in node.keywords]
        node.args = [self.visit(argument) for argument in node.args]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        if path in _FUNCTIONS:
            node.func = ast.copy_location(_stand_in(_FUNCTIONS[path]), function)
        elif isinstance(function, ast.Attribute) and function.attr in _METHODS:
            node.func = ast.copy_location(_stand_in(_METHODS[function.attr]), function)
            node.args = [function.value, *node.args]
        elif isinstance(function, ast.Name) and function.id == "str" and maybe_devices == [True]:
            node.func = ast.copy_location(_stand_in("text_of"), function)
        elif not path.startswith("torch.cuda"):
            self._pass_devices(node, maybe_devices, keywords, path in _DEVICE_FIRST)
        return node

    def _pass_devices(self, node: ast.Call, maybe_devices: list[bool], keywords: list[bool], first: bool) -> None:
        """Have the arguments that may be devices pass through the stand-in, which looks who is called."""
        told = [keyword.arg is None or keyword.arg in KEYWORDS for keyword in node.keywords]
        if not any(maybe_devices + keywords + told):
            return
        if not _can_be_repeated(node.func):
            node.args = [node.func, *node.args]
            node.func = ast.copy_location(_stand_in("call"), node.func)
            return
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_partial = name == "partial" and node.args and _can_be_repeated(node.args[0])
        function = node.args[0] if is_partial else node.func

        def passed(method: str, value: ast.expr, number: bool = False) -> ast.expr:
            arguments = [value, copy.deepcopy(function), *([ast.Constant(True)] if number else [])]
            return ast.copy_location(ast.Call(_stand_in(method), arguments, []), value)

        for keyword, maybe in zip(node.keywords, keywords, strict=True):
            if keyword.arg is None:
                keyword.value = passed("keywords", keyword.value)
            elif maybe or keyword.arg in KEYWORDS:
                method = "pinned" if keyword.arg == "pin_memory" else "given"
                keyword.value = passed(method, keyword.value, keyword.arg in DEVICE_KEYWORDS)
        for index, maybe in enumerate(maybe_devices):
            if maybe and not isinstance(node.args[index], ast.Starred):
                node.args[index] = passed("given", node.args[index], first and index == 0)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`torch.cuda`, `torch.random.fork_rng`, `x.is_cuda`, `x.device.type` and `x.cuda`, where they are read."""
        path, is_read = self._path(node), isinstance(node.ctx, ast.Load)
        if path == "torch.cuda" and is_read:
            return ast.copy_location(_stand_in(), node)
        if path == "torch.random.fork_rng" and is_read:
            return ast.copy_location(_stand_in("fork_rng"), node)
        self.generic_visit(node)
        if node.attr in _ATTRIBUTES and is_read and node not in self._in_patterns:
            return ast.copy_location(ast.Call(_stand_in(_ATTRIBUTES[node.attr]), [node.value], []), node)
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        """A pattern holds names and attributes only: no call may stand there."""
        self._in_patterns.update(ast.walk(node.pattern))
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> Any:
        """`import torch.cuda as name` and `import torch.cuda.amp as name`."""
        renamed = [alias for alias in node.names if alias.asname and f"{alias.name}.".startswith("torch.cuda.")]
        kept = [alias for alias in node.names if alias not in renamed]
        found = [_assign(str(alias.asname), alias.name) for alias in renamed]
        if not found:
            return node
        made = ([ast.Import(kept)] if kept else []) + found
        return [ast.copy_location(statement, node) for statement in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        """`from torch.cuda import Stream`, `from torch.cuda.amp import autocast` and `from torch import cuda`."""
        if node.level or any(alias.name == "*" for alias in node.names):
            return node
        if f"{node.module}.".startswith("torch.cuda."):
            parts = [_assign(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
            return [ast.copy_location(statement, node) for statement in parts]
        if node.module == "torch":
            kept = [alias for alias in node.names if alias.name != "cuda"]
            found = [_assign(alias.asname or "cuda", "torch.cuda") for alias in node.names if alias.name == "cuda"]
            if found:
                made = ([ast.ImportFrom("torch", kept, 0)] if kept else []) + found
                return [ast.copy_location(statement, node) for statement in made]
        return node


def _assign(name: str, path: str) -> ast.stmt:
    """`name = ` what stands for `path`, a part of torch.cuda."""
    inside = path.split(".")[2:]
    if ".".join(["torch.cuda", *inside[:1]]) in _SUBMODULES:
        inside = inside[1:]
    return ast.Assign([ast.Name(name, ast.Store())], _stand_in(*inside))


def _import_stand_in(tree: ast.Module) -> None:
    """Have the module import what it was rewritten to call, after what must come first."""
    place = 0 if ast.get_docstring(tree, clean=False) is None else 1
    while place < len(tree.body) and getattr(tree.body[place], "module", None) == "__future__":
        place += 1
    tree.body.insert(place, ast.ImportFrom("fm9g.runtime.cpu", [ast.alias("device", DEVICE_NAME)], 0))


def retargeted_code(source: bytes | str, path: str) -> CodeType:
    """Compile Python source with its CUDA names rewritten."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # BMTrain's docstrings hold LaTeX backslashes
        tree = ast.parse(source, path)
        tree = Retarget(tree).visit(tree)
        _import_stand_in(tree)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
