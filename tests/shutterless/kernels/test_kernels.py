"""Sessions run with our own kernels where they can, and answer as without them; which are built where there is a compiler."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from shutterless import kernels
from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.hardware import Machine
from shutterless.kernels import KERNELS
from shutterless.sessions import BATCH, Session, _open_with_kernels
from tests.shutterless.kernels.building import build

ROOT = Path(__file__).resolve().parents[3]


def answers(bundle: Bundle, threads: int, batch_threads: int | None) -> list[NDArray[np.float32]]:
    side = bundle.manifest.input.side
    pixels = np.random.default_rng(5).integers(0, 256, (9, side, side, 3), dtype=np.uint8)
    session = Session(bundle, threads=threads, batch_threads=batch_threads)
    first = session.run(pixels[:1])
    session.open_for_batches()
    return [first, *(session.run(pixels[:count]) for count in (3, 9, 2))]


class Watched:
    """A session that notes how many pictures it was asked for at a time."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.asked: list[int] = []

    def run(self, outputs: list[str], inputs: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        self.asked.append(len(next(iter(inputs.values()))))
        return list(self._session.run(outputs, inputs))


@pytest.fixture
def with_kernels(monkeypatch) -> list[Watched]:
    """The sessions that are opened with ours, from now on. On a CPU that runs none of them, the test ends here."""
    if not kernels.of_use("fp32") or not kernels.of_use("int8"):
        pytest.xfail("this CPU cannot run our kernels")
    made: list[Watched] = []

    def watched(bundle: Bundle) -> Watched | None:
        session = _open_with_kernels(bundle)
        if session is None:
            return None
        made.append(Watched(session))
        return made[-1]

    monkeypatch.setattr("shutterless.sessions._open_with_kernels", watched)
    return made


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("precision", "threads", "batch_threads", "asked"), [
    ("int8", 1, None, [[3, 9, 2]]), ("int8", 2, 1, [[9]]), ("int8", 2, None, []),
    ("fp32", 1, None, [[9]]), ("fp32", 2, 1, [[9]]), ("fp32", 2, None, []),
])
def test_what_has_one_thread_is_asked_of_them_and_answered_as_without(with_kernels, monkeypatch, fast_bundle, precision, threads,
                                                                      batch_threads, asked):
    bundle = read_bundle(fast_bundle if precision == "fp32" else find_bundle("eurosat-resnet50", ROOT / "models"))
    assert bundle.graph()[1], "the graph is to be one that was optimised"
    with_it = answers(bundle, threads, batch_threads)
    assert [watched.asked for watched in with_kernels] == asked
    monkeypatch.setattr(kernels, "KERNELS", ())
    for ours, builtin in zip(with_it, answers(bundle, threads, batch_threads), strict=True):
        exact = precision == "int8" or len(ours) < BATCH
        assert np.abs(ours - builtin).max() <= (0 if exact else 1e-5 * np.abs(builtin).max())
    assert len(with_kernels) == len(asked)


@pytest.mark.needs("kernel")
def test_a_network_with_other_convolutions_runs_without_them_and_nothing_is_printed(capfd):
    bundle = read_bundle(find_bundle("eurosat-lite0", ROOT / "models"))
    assert _open_with_kernels(bundle) is None
    assert capfd.readouterr() == ("", "")
    side = bundle.manifest.input.side
    assert Session(bundle).run(np.zeros((5, side, side, 3), np.uint8)).shape == (5, 10)


@pytest.mark.needs("kernel")
def test_a_library_that_does_not_load_is_named_and_the_next_one_taken(with_kernels, monkeypatch, tmp_path, caplog):
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    built = kernels.libraries("int8")
    bundle = read_bundle(find_bundle("eurosat-resnet50", ROOT / "models"))
    for libraries in ([broken, *built], [broken]):
        monkeypatch.setattr(kernels, "libraries", lambda precision, found=libraries: found)
        assert (_open_with_kernels(bundle) is None) == (libraries == [broken])
    assert caplog.text.count("broken.so cannot be used here") == 2


# Which one.

AMX, VNNI = (next(kernel for kernel in KERNELS if kernel.file == f"qlinearconv-{unit}.so") for unit in ("amx", "vnni"))


def machine(*features: str, system: str = "linux-x86_64") -> Machine:
    return Machine(system=system, cpu=frozenset(features), ort=None)


@pytest.mark.parametrize(("here", "precision", "files"), [
    (machine(*AMX.features, *VNNI.features), "int8", ["qlinearconv-amx.so", "qlinearconv-vnni.so"]),
    (machine(*VNNI.features), "int8", ["qlinearconv-vnni.so"]),
    (machine(*VNNI.features - {"avx512_vnni"}), "int8", []),
    (machine(*VNNI.features), "fp32", ["conv.so"]),
    (machine("avx2"), "fp32", []),
    (machine(*AMX.features, system="linux-arm64"), "int8", []),
    (Machine(system="linux-x86_64", cpu=None, ort=None), "fp32", []),
], ids=str)
def test_those_are_taken_that_were_built_and_that_the_cpu_can_run(monkeypatch, tmp_path, here, precision, files):
    monkeypatch.setattr(kernels, "this_machine", lambda: here)
    monkeypatch.setattr(kernels, "HERE", tmp_path)
    assert [kernel.file for kernel in kernels.of_use(precision)] == files
    assert kernels.libraries(precision) == []
    for i, file in reversed([*enumerate(files)]):
        (tmp_path / file).touch()
        assert kernels.libraries(precision) == [tmp_path / name for name in files[i:]]


# Building them.

@pytest.mark.parametrize(("compiler", "said"), [("missing-cc", "apt-get install gcc"), ("false", "false could not build ours")])
def test_without_a_compiler_that_can_do_it_that_is_said_and_nothing_fails(tmp_path, compiler, said):
    done, built = build(tmp_path, compiler, path="")
    assert (done.returncode, said in done.stderr, built) == (0, True, {})


@pytest.mark.parametrize("machine", ["Darwin arm64", "Linux aarch64"])
def test_for_other_machines_nothing_is_built_and_nothing_said(tmp_path, machine):
    done, built = build(tmp_path, "false", machine, path="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert set(built.values()) == {b"of an older source"}


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("features", "files"), [
    ("avx2 avx512bw", []), ("avx512f", ["conv.so"]), ("avx512f avx512_vnni", ["conv.so", "qlinearconv-vnni.so"]),
    ("avx512f avx512_vnni amx_int8 amx_tile", ["conv.so", "qlinearconv-amx.so", "qlinearconv-vnni.so"]),
])
def test_where_no_compiler_is_named_those_are_built_that_this_cpu_can_run(tmp_path, features, files):
    done, built = build(tmp_path, features=features)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(file for file, library in built.items() if library.startswith(b"\x7fELF")) == files


@pytest.mark.needs("kernel")
def test_a_compiler_that_is_named_builds_all_of_them_without_a_warning_and_once(tmp_path):
    done, built = build(tmp_path, "cc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: library[:4] for name, library in built.items()} == {kernel.file: b"\x7fELF" for kernel in KERNELS}
    done, again = build(tmp_path, "false")
    assert (done.stderr, again) == ("", built)
    (tmp_path / "kernels/operators.h").touch()
    assert build(tmp_path, "false")[0].stderr.count("false could not build ours") == len(KERNELS)
