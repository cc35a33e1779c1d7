"""What a graph can be optimised for: system, CPU features, version of onnxruntime; known without importing that."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from shutterless.manifests import OptimisedGraph

ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}
SYSCTL = {"hw.optional.avx512f": "avx512f", "hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`system`: such as linux-x86_64. `cpu`: features, as Linux calls them. `ort`: version of onnxruntime. None: unknown."""

    system: str
    cpu: frozenset[str] | None
    ort: str | None

    def takes(self, graph: OptimisedGraph) -> bool:
        """Whether `graph` was optimised for machines like this one, by this very version of onnxruntime."""
        if (graph.system, graph.ort) != (self.system, self.ort) or (graph.cpu and self.cpu is None):
            return False
        return all((feature in (self.cpu or ())) == there for feature, there in graph.cpu.items())


@cache
def this_machine() -> Machine:
    """Found out once, in about a millisecond."""
    machine = os.uname().machine.lower() if hasattr(os, "uname") else ""
    system = f"{sys.platform}-{ARCHITECTURES.get(machine, machine)}"
    return Machine(system=system, cpu=_cpu_features(system), ort=_ort_version())


def _cpu_features(system: str) -> frozenset[str] | None:
    try:
        if system.startswith("darwin"):
            import subprocess

            asked = subprocess.run(["/usr/sbin/sysctl", "-i", *SYSCTL],  # noqa: S603 - nothing in it is from outside
                                   capture_output=True, text=True, check=False)
            return features_in_sysctl(asked.stdout)
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - read line by line: it has a page per CPU
            return features_in_cpuinfo(lines, system)
    except OSError:
        return None


def features_in_cpuinfo(lines: Iterable[str], system: str) -> frozenset[str] | None:
    """The features of the first CPU in Linux's /proc/cpuinfo."""
    name = "flags" if system.endswith("x86_64") else "Features"
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith(name)), None)


def features_in_sysctl(text: str) -> frozenset[str]:
    """The features of which macOS's sysctl says 1."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return frozenset(SYSCTL[name] for name, _, value in pairs if name in SYSCTL and value.strip() == "1")


def _ort_version() -> str | None:
    """From the package's first lines, since importing it takes 100 ms, and importlib.metadata 40."""
    imported = getattr(sys.modules.get("onnxruntime"), "__version__", None)  # None while another thread imports it
    if imported is not None:
        return str(imported)
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    try:
        with open(spec.origin, encoding="utf-8") as source:  # noqa: PTH123
            found = re.search(r'^__version__ = "([^"]+)"', source.read(4096), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return found[1] if found else None
