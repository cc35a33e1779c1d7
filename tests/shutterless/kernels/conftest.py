from collections.abc import Callable
from pathlib import Path

import pytest

from shutterless import kernels


@pytest.fixture(scope="session")
def runnable() -> Callable[..., Path]:
    """A kernel's library, by its file's name; where this CPU cannot run it, `otherwise`, or else the test ends here."""

    def library(file: str, otherwise: Path | None = None) -> Path:
        kernel = next(kernel for kernel in kernels.KERNELS if kernel.file == file)
        if kernel in kernels.of_use(kernel.precision):
            return kernel.library
        if otherwise is None or not kernels.of_use("fp32"):
            pytest.xfail(f"this CPU cannot run {file}")
        return otherwise

    return library
