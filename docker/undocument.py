"""Compile what a cold start imports of other packages without docstrings and assertions: to read them takes longer than to skip
them. Their sources stay, but for two that hold nothing else.

Usage: undocument.py FOLDER FOLDER_AT_RUN_TIME
"""

import sys
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode, compile

PACKAGES = ("numpy", "onnxruntime", "PIL")
ONLY_DOCUMENTATION = ("numpy/_core/_add_newdocs.py", "numpy/_core/_add_newdocs_scalars.py")  # they write docstrings into C code


def undocument(folder: Path, at_run_time: str) -> None:
    """Replace the compiled files of PACKAGES in `folder`."""
    for package in PACKAGES:
        for source in (folder / package).rglob("*.py"):
            path = source.relative_to(folder).as_posix()
            if path in ONLY_DOCUMENTATION:
                source.write_text("")
            compile(str(source), cache_from_source(str(source), optimization=""), f"{at_run_time}/{path}", doraise=True,
                    optimize=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    undocument(Path(sys.argv[1]), sys.argv[2])
