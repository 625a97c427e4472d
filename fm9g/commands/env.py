"""Print what a report of a bug needs: versions, the backend that would be chosen, GPUs, cores, memory, system.

There is no path, name of a host or user, nor anything secret in it. Packages that are missing are said to be.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
from pathlib import Path

from fm9g import __version__
from fm9g.commandline import parse_flags

PACKAGES = ("torch", "bmtrain", "transformers", "tokenizers", "sentencepiece", "h5py", "numpy")


def main() -> None:
    """Run the command line."""
    parse_flags(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    lines = [("fm9g", __version__), ("python", f"{platform.python_implementation()} {platform.python_version()}")]
    lines += [(name, _version(name)) for name in PACKAGES]
    lines += [*_torch_lines(), ("cpu", _cpu()), ("memory", _memory()), ("system", _system())]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:{width}}  {value}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_lines() -> list[tuple[str, str]]:
    """The backend and the GPUs, as far as torch can be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it loads by itself is not there
        return [("backend", f"torch cannot be imported: {without_folders(str(error))}")]
    lines = [("backend", _backend())]
    if not torch.cuda.is_available():
        return [
            *lines,
            ("gpus", "none that torch can use" if torch.version.cuda else "none: this torch is without CUDA"),
        ]
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        lines.append((f"gpu {number}", f"{found.name}, {_gib(found.total_memory)}, sm_{found.major}{found.minor}"))
    return [*lines, ("cuda", f"{torch.version.cuda}, nccl {'.'.join(map(str, torch.cuda.nccl.version()))}")]


def _backend() -> str:
    from fm9g.errors import UserError

    try:
        from fm9g.runtime.backend import choose

        chosen = choose()
    except (UserError, ImportError) as error:
        return f"none: {without_folders(str(error))}"
    return f"{chosen.name} ({without_folders(chosen.reason)})"


def without_folders(text: str) -> str:
    """`text`, with each path in it cut to its last part: folders tell who the user is."""
    text = text.replace(str(Path.home()), "~")
    return re.sub(r"(?<![\w.])~?/(?:[^\s/:'\"]+/)*", "…/", text)


def _cpu() -> str:
    usable = len(os.sched_getaffinity(0))
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    named = f", {model[1]}" if model else ""
    return f"{usable} of {os.cpu_count()} cores usable, {platform.machine()}{named}"


def _memory() -> str:
    """Of the machine, and what this process's group may use of it."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = f"{_gib(os.sysconf('SC_PHYS_PAGES') * page)}, {_gib(os.sysconf('SC_AVPHYS_PAGES') * page)} free"
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return f"{found}, limited to {_gib(int(limit))}" if limit.isdecimal() else found


def _system() -> str:
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release"), re.MULTILINE)
    named = f"{release[1]}, " if release else ""
    return f"{named}{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _read(path: str) -> str:
    """A file of the system, empty where it has none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
