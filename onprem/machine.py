"""What this machine is doing."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


@cache
def _process() -> psutil.Process:
    import psutil  # 20 ms that no start pays

    psutil.cpu_percent()  # the first call sets the mark from which the next one measures
    return psutil.Process()


def system_resources() -> dict[str, float | int]:
    """cpu_percent of all CPUs since the last call, resident bytes of this process, load average over a minute."""
    process = _process()
    import psutil

    return {"cpu_percent": psutil.cpu_percent(), "process_rss_bytes": process.memory_info().rss,
            "load_1m": os.getloadavg()[0]}
