"""What this container is doing, from /proc: the fields that the on-prem server takes from psutil."""

from __future__ import annotations

import os
from pathlib import Path


class _Cpu:
    """Of all CPUs, between two calls. https://man7.org/linux/man-pages/man5/proc_stat.5.html"""

    def __init__(self) -> None:
        self._busy, self._all = _ticks()

    def percent(self) -> float:
        before_busy, before_all = self._busy, self._all
        self._busy, self._all = _ticks()
        spent = self._all - before_all
        return round(100 * (self._busy - before_busy) / spent, 1) if spent > 0 else 0.0


def _ticks() -> tuple[int, int]:
    """Busy, and all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


_cpu = _Cpu()


def system_resources() -> dict[str, float | int]:
    """cpu_percent of all CPUs since the last call, resident bytes of this process, load average over a minute."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"cpu_percent": _cpu.percent(), "process_rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "load_1m": os.getloadavg()[0]}
