"""Our own kernel for onnxruntime: int8 convolutions on a CPU's matrix unit, each bit as without it.

`build` makes it of C, where there is a compiler: `make` calls it, and the on-prem server's image is built with it. Where it is
missing, or the CPU has no such unit, onnxruntime's own kernels run.
"""

from __future__ import annotations

from pathlib import Path

from shutterless.hardware import this_machine

LIBRARY = Path(__file__).with_name("qlinearconv.so")
FEATURES = frozenset({"amx_tile", "amx_int8", "avx512f", "avx512bw", "avx512vl", "avx512dq"})  # as Linux calls them


def library() -> Path | None:
    """What a session has to register to run convolutions with it; None where it was not built or this CPU lacks something."""
    return LIBRARY if are_of_use() and LIBRARY.is_file() else None


def are_of_use() -> bool:
    """Whether this machine could run them."""
    machine = this_machine()
    return machine.system == "linux-x86_64" and machine.cpu is not None and machine.cpu >= FEATURES
