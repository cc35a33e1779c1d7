"""The systemd unit, held to systemd's own checks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy/systemd/shutterless.service"
MOST_EXPOSED = 2.0  # of 10, by systemd's own count


@pytest.mark.needs("systemd")
def test_systemd_takes_the_unit(tmp_path):
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/shutterless/.venv/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs("systemd")
def test_systemd_finds_it_well_shut_in():
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", UNIT], capture_output=True, text=True)
    exposure = re.search(r"Overall exposure level for shutterless.service: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= MOST_EXPOSED


def test_what_the_unit_starts_is_there():
    module = re.search(r"^ExecStart=\S+ -m (\w+)$", UNIT.read_text(), re.MULTILINE)
    assert module is not None
    assert (UNIT.parents[2] / module[1] / "__main__.py").is_file()
