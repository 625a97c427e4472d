#!/usr/bin/env python
"""Install BMTrain 1.0.1 into this Python environment, without the second NCCL that it asks for.

BMTrain's requirement nvidia-nccl-cu11 puts a libnccl.so.2 where torch looks for its own. Its wheels exist for Python
3.8 to 3.11; the Python files are the same in all of them, so other Pythons (and other machines) get those of the
3.11 wheel, which serve the portable and cpu backends.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

VERSION = "1.0.1"
WHEELS = ((3, 8), (3, 9), (3, 10), (3, 11))


def installed(site: Path) -> bool:
    """Whether this environment holds this version already."""
    return (site / f"bmtrain-{VERSION}.dist-info").is_dir() and (site / "bmtrain" / "__init__.py").exists()


def download(folder: Path) -> Path:
    """Fetch the wheel for this Python, or else that for 3.11."""
    version = sys.version_info[:2] if sys.version_info[:2] in WHEELS else (3, 11)
    tag = "".join(map(str, version))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", tag, "--abi", f"cp{tag}"),
            *("--platform", "manylinux2014_x86_64", "--dest", str(folder), f"bmtrain=={VERSION}"),
        ],
        check=True,
    )
    return next(folder.glob("bmtrain-*.whl"))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    site = Path(sysconfig.get_path("purelib"))
    if installed(site):
        print(f"BMTrain {VERSION} is already in {site}")
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(download(Path(folder))) as wheel:
        # the wheel's record of itself comes last, so that an interrupted installation is done again
        for name in sorted(wheel.namelist(), key=lambda name: ".dist-info" in name):
            wheel.extract(name, site)
    print(f"BMTrain {VERSION} installed in {site}")


if __name__ == "__main__":
    main()
