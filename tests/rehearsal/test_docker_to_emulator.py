"""What CDK calls in docker's place."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from rehearsal.cdk import WRAPPER

IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/shutterless-rehearsal/api:1234"


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "REHEARSAL_REGISTRY": "localhost:4566",
                   "REHEARSAL_PUSHES": str(folder / "pushes")}
    return subprocess.run([WRAPPER, *words], input="password", env=environment, capture_output=True, text=True, check=False)


def test_a_push_goes_to_the_emulators_registry_and_is_told(scripts: Callable[..., Path]):
    folder = scripts(docker='echo "$*"')
    done = call(folder, "push", IMAGE)
    there = "localhost:4566/shutterless-rehearsal/api:1234"
    assert done.stdout.splitlines() == [f"tag {IMAGE} {there}", f"push --quiet {there}"]
    assert (folder / "pushes").read_text() == f"{IMAGE}\n"


def test_a_push_that_fails_fails_and_is_not_told(scripts: Callable[..., Path]):
    folder = scripts(docker='[ "$1" != push ]')
    assert call(folder, "push", IMAGE).returncode != 0
    assert not (folder / "pushes").exists()


def test_a_login_reaches_nobody(scripts: Callable[..., Path]):
    assert call(scripts(docker="exit 1"), "login", "--password-stdin", "somewhere").returncode == 0


def test_what_make_images_has_built_of_these_sources_is_not_built_again(scripts: Callable[..., Path]):
    folder = scripts(docker='[ "$1" = image ] && exit; echo "$*"')
    assert call(folder, "build", "--tag", "cdkasset-api-1234", ".").stdout == "tag shutterless-api:1234 cdkasset-api-1234\n"


def test_a_build_leaves_no_container_where_it_breaks_off(scripts: Callable[..., Path]):
    folder = scripts(docker='[ "$1" = image ] && exit 1; echo "$*"')
    words = ("build", "--file", "a b", "--tag", "cdkasset-api-1234", ".")
    assert call(folder, *words).stdout == "build --force-rm --file a b --tag cdkasset-api-1234 .\n"


def test_a_build_that_fails_fails(scripts: Callable[..., Path]):
    assert call(scripts(docker="exit 3"), "build", "--tag", "cdkasset-api-1234", ".").returncode == 3


def test_all_else_is_dockers(scripts: Callable[..., Path]):
    assert call(scripts(docker='echo "$*"; exit 3'), "inspect", "a b").stdout == "inspect a b\n"
    assert call(scripts(docker="exit 3"), "inspect").returncode == 3
