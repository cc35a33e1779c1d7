import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shutterless import kernels
from tests.shutterless.kernels.building import build

HERE = Path(__file__).parent


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


@pytest.fixture(scope="session")
def emulated(tmp_path_factory) -> Path:
    """The library for CPUs with AMX, whose unit is played by plain C: as slow as that is."""
    folder = tmp_path_factory.mktemp("emulated")
    shutil.copy(HERE / "emulated_amx.h", folder)
    done, _ = build(folder, "cc -include ../emulated_amx.h")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "kernels" / "qlinearconv-amx.so"


@pytest.fixture(params=["vnni", "amx"])
def int8_kernel(request, emulated, runnable) -> Path:
    """Each library for int8."""
    return runnable(f"qlinearconv-{request.param}.so", otherwise=emulated if request.param == "amx" else None)
