"""The command line, called in this process, and the real command in a process of its own."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import main

ROOT = Path(__file__).parents[2]
RUN = "import sys; from cli.main import main; sys.exit(main())"  # what the installed script does


@pytest.fixture
def environment(models_dir: Path) -> dict[str, str]:
    """The process's own, without settings but the folder of the tiny bundle."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("SHUTTERLESS_") and name not in ("MODEL_URI", "DATABASE_URL")}
    return kept | {"SHUTTERLESS_MODELS_DIR": str(models_dir), "SHUTTERLESS_MODEL": "colours", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def shutterless(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`shutterless("predict", path, stdin=b"", **environment)` -> exit code, standard output and standard error."""
    def call(*arguments: object, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("os.environ", environment | variables)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(list(map(str, arguments)))
        return subprocess.CompletedProcess(arguments, code, *capsysbinary.readouterr())
    return call


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """The same, in a process of its own, which Ctrl-C reaches. What still runs at the end of the test is killed."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that a script runs with & inherit "ignored"
    started = []

    def call(*arguments: object, **variables: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
                                        env=environment | variables))
        return started[-1]

    yield call
    signal.signal(signal.SIGINT, before)
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def pictures(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """A folder: red.png, deep/green.jpg, deep/blue (no suffix), and files that are no pictures."""
    from PIL import Image

    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "red.png").write_bytes(encode(Image.new("RGB", (40, 30), (250, 5, 5)), "PNG"))
    (folder / "deep" / "green.jpg").write_bytes(encode(Image.new("RGB", (64, 64), (5, 250, 5)), "JPEG"))
    (folder / "deep" / "blue").write_bytes(encode(Image.new("RGB", (8, 8), (5, 5, 250)), "BMP"))
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._red.png").write_bytes(b"what macOS leaves on other systems' disks")
    return folder
