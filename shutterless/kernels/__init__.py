"""Our own kernels for onnxruntime, for CPUs with AVX-512: convolutions, which take a batch as one, and int8 additions.

`build` makes them of C, where there is a compiler: `make` calls it, and the on-prem server's image is built with it. Where they
are missing, or the CPU lacks something, onnxruntime's own kernels run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shutterless.hardware import this_machine

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """`file`: what `build` makes. `precision`: of the networks that it is for. `features`: of the CPU, as Linux calls them."""

    file: str
    precision: str
    features: frozenset[str]

    @property
    def library(self) -> Path:
        """What a session registers."""
        return HERE / self.file


BYTES = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})
KERNELS = (
    Kernel(file="conv.so", precision="fp32", features=frozenset({"avx512f"})),
    Kernel(file="qlinearconv-amx.so", precision="int8", features=BYTES | {"amx_tile", "amx_int8"}),
    Kernel(file="qlinearconv-vnni.so", precision="int8", features=BYTES | {"avx512_vnni"}),
)  # the fastest first


def of_use(precision: str) -> list[Kernel]:
    """Those that this machine could run, the fastest first."""
    machine = this_machine()
    if machine.system != "linux-x86_64" or machine.cpu is None:
        return []
    return [kernel for kernel in KERNELS if kernel.precision == precision and kernel.features <= machine.cpu]


def libraries(precision: str) -> list[Path]:
    """What a session may register for a network of this precision, the fastest first: what was built and runs on this machine."""
    return [kernel.library for kernel in of_use(precision) if kernel.library.is_file()]
