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
    return [session.run(pixels[:count]) for count in (1, 3, 9, 2)]


@pytest.fixture
def opened_with_kernels(monkeypatch) -> list[ort.InferenceSession]:
    """The sessions that were, from now on. On a CPU that runs none of ours, the test ends here."""
    if not kernels.of_use("fp32") or not kernels.of_use("int8"):
        pytest.xfail("this CPU cannot run our kernels")
    made: list[ort.InferenceSession] = []

    def watched(bundle: Bundle) -> ort.InferenceSession | None:
        session = _open_with_kernels(bundle)
        made.extend([session] if session else [])
        return session

    monkeypatch.setattr("shutterless.sessions._open_with_kernels", watched)
    return made


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("threads", "batch_threads", "sessions"), [(2, 1, 1), (1, None, 1), (2, None, 0)])
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_networks_run_with_them_where_batches_have_one_thread(opened_with_kernels, monkeypatch, fast_bundle, precision, threads,
                                                              batch_threads, sessions):
    bundle = read_bundle(fast_bundle if precision == "fp32" else find_bundle("eurosat-resnet50", ROOT / "models"))
    assert bundle.graph()[1], "the graph is to be one that was optimised"
    with_it = answers(bundle, threads, batch_threads)
    assert len(opened_with_kernels) == sessions
    monkeypatch.setattr(kernels, "KERNELS", ())
    for ours, builtin in zip(with_it, answers(bundle, threads, batch_threads), strict=True):
        exact = precision == "int8" or len(ours) < BATCH
        assert np.abs(ours - builtin).max() <= (0 if exact else 1e-5 * np.abs(builtin).max())
    assert len(opened_with_kernels) == sessions


@pytest.mark.needs("kernel")
def test_a_network_with_other_convolutions_runs_without_them_and_nothing_is_printed(capfd):
    bundle = read_bundle(find_bundle("eurosat-lite0", ROOT / "models"))
    assert _open_with_kernels(bundle) is None
    assert capfd.readouterr() == ("", "")
    side = bundle.manifest.input.side
    assert Session(bundle).run(np.zeros((5, side, side, 3), np.uint8)).shape == (5, 10)


@pytest.mark.needs("kernel")
def test_a_library_that_does_not_load_is_named_and_left_out(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "qlinearconv.so"
    broken.write_text("no library")
    monkeypatch.setattr(kernels, "library", lambda precision: broken)
    assert _open_with_kernels(read_bundle(find_bundle("eurosat-resnet50", ROOT / "models"))) is None
    assert "qlinearconv.so cannot be used here" in caplog.text


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
def test_the_fastest_is_taken_that_was_built_and_that_the_cpu_can_run(monkeypatch, tmp_path, here, precision, files):
    monkeypatch.setattr(kernels, "this_machine", lambda: here)
    monkeypatch.setattr(kernels, "HERE", tmp_path)
    assert [kernel.file for kernel in kernels.of_use(precision)] == files
    assert kernels.library(precision) is None
    for file in reversed(files):
        (tmp_path / file).touch()
        assert kernels.library(precision) == tmp_path / file


# Building them.

@pytest.mark.parametrize(("compiler", "said"), [("missing-cc", "apt-get install gcc"), ("false", "false could not build ours")])
def test_without_a_compiler_that_can_do_it_that_is_said_and_nothing_fails(tmp_path, compiler, said):
    done, built = build(tmp_path, compiler, path="")
    assert (done.returncode, said in done.stderr, built) == (0, True, {})


@pytest.mark.parametrize("machine", ["Darwin arm64", "Linux aarch64"])
def test_for_other_machines_nothing_is_built_and_nothing_said(tmp_path, machine):
    done, built = build(tmp_path, "false", machine, path="")
    assert (done.returncode, done.stdout, done.stderr, list(built)) == (0, "", "", ["conv.so"])


@pytest.mark.needs("kernel")
def test_a_compiler_that_is_named_builds_all_of_them_without_a_warning_and_once(tmp_path):
    if not kernels.of_use("fp32"):
        pytest.xfail("this CPU cannot run our kernels, and may lack a compiler for them")
    done, built = build(tmp_path, "cc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: library[:4] for name, library in built.items()} == {kernel.file: b"\x7fELF" for kernel in KERNELS}
    done, again = build(tmp_path, "false")
    assert (done.stderr, again) == ("", built)
    (tmp_path / "kernels/operators.h").touch()
    assert build(tmp_path, "false")[0].stderr.count("false could not build ours") == len(KERNELS)
