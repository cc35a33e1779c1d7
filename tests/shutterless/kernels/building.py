"""The kernels, built as `make` does but elsewhere, and graphs opened with them."""

import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime as ort

from shutterless.kernels import HERE, KERNELS
from shutterless.sessions import OPTIMISED_LEVEL, session_options

TOOLS = ("sh", "dirname", "rm", "mv", "false", "find")


def build(folder: Path, compiler: str = "", machine: str = "Linux x86_64", path: str = os.environ["PATH"],
          features: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, bytes]]:
    """In folder/kernels, with tools that say that they run on `machine` and, if asked, that its CPU has these `features`: what
    became of it, and the libraries that are there afterwards. All are there before: of an older source."""
    if not (folder / "kernels").exists():
        shutil.copytree(HERE, folder / "kernels", ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
        for kernel in KERNELS:
            (folder / "kernels" / kernel.file).write_text("of an older source")
            os.utime(folder / "kernels" / kernel.file, (0, 0))
        (folder / "tools").mkdir()
        (folder / "tools/uname").write_text(f"#!/bin/sh\necho {machine}\n")
        (folder / "tools/uname").chmod(0o755)
        for tool in TOOLS:
            (folder / "tools" / tool).symlink_to(shutil.which(tool) or tool)
        if features:
            (folder / "tools/grep").write_text(f'#!/bin/sh\necho "flags: {features}" | {shutil.which("grep")} "$1" "$2"\n')
            (folder / "tools/grep").chmod(0o755)
    done = subprocess.run([folder / "kernels/build"], env={"PATH": f"{folder / 'tools'}:{path}", "CC": compiler},
                          capture_output=True, text=True, check=False)
    return done, {library.name: library.read_bytes() for library in (folder / "kernels").glob("*.so*")}


def opened(path: Path, kernel: Path | None = None) -> ort.InferenceSession:
    """With the kernel, or as it is."""
    options = session_options(1, level=OPTIMISED_LEVEL)
    if kernel:
        options.register_custom_ops_library(str(kernel))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
