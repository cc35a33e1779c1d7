"""The completed emulator, started once for the tests that ask it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from rehearsal import emulator_process
from rehearsal.docker_client import bridge_address
from rehearsal.emulator_process import KEY, REGION, Place


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """For tests marked `needs("docker", "emulator")`."""
    with emulator_process.free_place(bridge_address()) as place:
        pass
    process = emulator_process.start(place, tmp_path_factory.mktemp("emulator"), postgres="none")
    yield place
    emulator_process.stop(place, process)


@pytest.fixture
def aws(emulator: Place) -> Callable[[str], Any]:
    """`aws("s3")`: a client of the emulator."""
    return lambda service: boto3.client(service, endpoint_url=emulator.url, region_name=REGION, aws_access_key_id=KEY,
                                        aws_secret_access_key=KEY)


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[..., Path]:
    """`scripts(docker="echo $*")`: a folder for PATH with shell scripts of these names."""
    def write(**bodies: str) -> Path:
        for name, body in bodies.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path
    return write
