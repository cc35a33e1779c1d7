"""A test whose need is not met never passes silently: it is skipped and listed, or fails where it is required."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.needs("photos")
def test_with_photos(photos_zip):
    pass

@pytest.mark.needs("photos", "eurosat")
def test_with_both(photos_zip, eurosat_zip):
    assert eurosat_zip.name == "EuroSAT.zip"

def test_alone():
    pass
"""


@pytest.fixture
def run(tmp_path):
    """`run(REQUIRE="all")`: pytest over three tests, beside data of which only EuroSAT.zip is there."""
    project = tmp_path / "checkout" / "tests"
    project.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "conftest.py", project)
    (project / "test_some.py").write_text(TESTS)
    data = tmp_path / "shared" / "data"
    data.mkdir(parents=True)
    (data / "EuroSAT.zip").touch()

    def run(**environment: str) -> tuple[int, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("REQUIRE", "SHUTTERLESS_DATA")}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib", "-rs", "."]
        shown = subprocess.run(command, cwd=project, env=kept | environment, capture_output=True, text=True)
        return shown.returncode, shown.stdout + shown.stderr
    return run


def test_what_is_missing_is_skipped_and_listed_once_with_reason_and_remedy(run):
    code, shown = run()
    assert code == 0
    assert "1 passed, 2 skipped" in shown
    assert shown.count("photos: 2 tests. Reason: flickr8k-train.zip is not there. Remedy: ") == 1
    assert "eurosat:" not in shown


@pytest.mark.parametrize("names", ["all", "photos", "eurosat,photos"])
def test_what_is_required_and_missing_fails(names, run):
    code, shown = run(REQUIRE=names)
    assert code == 1
    assert "2 failed, 1 passed" in shown or "1 passed, 2 errors" in shown
    assert "flickr8k-train.zip is not there" in shown


def test_a_requirement_that_nobody_knows_is_refused(run):
    code, shown = run(REQUIRE="fotos")
    assert code == 4
    assert "expected all or any of torch, eurosat, photos, postgres, prometheus, systemd, helm, docker, "\
           "mounts, kernel, emulator, got fotos" in shown


def test_the_data_may_lie_elsewhere(run, tmp_path):
    (tmp_path / "flickr8k-train.zip").touch()
    assert "3 passed" in run(SHUTTERLESS_DATA=str(tmp_path), REQUIRE="photos,eurosat")[1]
