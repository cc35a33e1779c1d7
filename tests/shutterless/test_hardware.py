import importlib.machinery
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import onnxruntime
import pytest

from shutterless import hardware
from shutterless.hardware import Machine, features_in_cpuinfo, features_in_sysctl, this_machine
from shutterless.manifests import OptimisedGraph

XEON = Machine(system="linux-x86_64", cpu=frozenset({"avx2", "avx512f"}), ort="1.31.1")
BLOCKS = OptimisedGraph(of="model.onnx", graph="fast.onnx", weights=(), ort="1.31.1", system="linux-x86_64",
                        cpu={"avx512f": True})


def test_a_graph_is_taken_by_machines_like_the_one_it_was_made_for():
    assert XEON.takes(BLOCKS)
    assert XEON.takes(replace(BLOCKS, cpu={}))


@pytest.mark.parametrize("other", [{"system": "linux-arm64"}, {"system": "darwin-x86_64"}, {"ort": "1.31.2"}, {"ort": "1.31"},
                                   {"ort": None}, {"cpu": frozenset({"avx2"})}, {"cpu": frozenset()}, {"cpu": None}])
def test_a_graph_is_left_by_machines_that_differ(other):
    assert not replace(XEON, **other).takes(BLOCKS)


def test_a_graph_in_smaller_blocks_is_left_by_a_cpu_that_can_do_more():
    smaller = replace(BLOCKS, cpu={"avx512f": False})
    assert not XEON.takes(smaller)
    assert replace(XEON, cpu=frozenset({"avx2"})).takes(smaller)


def test_what_asks_nothing_of_the_cpu_is_taken_where_the_cpu_is_unknown():
    unknown = replace(XEON, cpu=None)
    assert unknown.takes(replace(BLOCKS, cpu={}))
    assert not unknown.takes(replace(BLOCKS, cpu={"avx512f": False}))


def test_features_are_those_of_the_first_cpu():
    lines = ["processor\t: 0\n", "flags\t\t: fpu avx2 avx512f\n", "processor\t: 1\n", "flags\t\t: fpu\n"]
    assert features_in_cpuinfo(lines, "linux-x86_64") == {"fpu", "avx2", "avx512f"}
    assert features_in_cpuinfo(["Features\t: fp asimd asimddp\n"], "linux-arm64") == {"fp", "asimd", "asimddp"}


@pytest.mark.parametrize("system", ["linux-arm64", "linux-riscv64"])
def test_features_of_another_architecture_are_not_believed(system):
    assert features_in_cpuinfo(["flags\t\t: fpu avx2\n"], system) is None


def test_macos_names_become_those_of_linux():
    text = "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.arm.FEAT_SHA512: 1\n"
    assert features_in_sysctl(text) == {"asimddp"}


def test_this_machine_is_known_before_anything_heavy_is_imported():
    code = "import sys; from shutterless.hardware import this_machine; print(this_machine().ort, *sys.modules)"
    ort, *modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert ort == onnxruntime.__version__ == this_machine().ort
    assert {"numpy", "onnxruntime", "importlib.metadata", "subprocess"} & set(modules) == set()


def test_the_version_is_known_while_another_thread_imports_onnxruntime(monkeypatch):
    version = hardware._ort_version()
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))  # as it is before its first line has run
    sys.modules["onnxruntime"].__spec__ = importlib.machinery.PathFinder.find_spec("onnxruntime")
    assert version
    assert hardware._ort_version() == version
