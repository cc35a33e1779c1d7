"""What a run has on this machine, written down when it begins: so that it can be taken away, whatever ended the run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rehearsal.docker_client import containers, image_names, remove_containers, remove_image_names
from rehearsal.emulator_process import ROOT, Place
from rehearsal.processes import end_marked, marked_ids
from shutterless.errors import BadSettings

STATE = ROOT / "var/rehearsal"
RUN = STATE / "run"
NOTE = STATE / "run.json"
PUSHED = re.compile(r"(localhost:\d+|000000000000\.dkr\.ecr\.[^/]+)/shutterless-rehearsal|cdkasset-(api|inference)-")
"""How the names of what CDK builds and pushes begin."""


@dataclass(frozen=True)
class Traces:
    """place: of its emulator. images: names that were there before. is_kept: left running on purpose."""

    place: Place
    images: list[str] = field(default_factory=list)
    is_kept: bool = False

    def write(self) -> None:
        NOTE.write_text(json.dumps(asdict(self)))

    def take_away(self) -> None:
        """Processes, containers, names of images, files, in this order. May be called again, where it broke off.

        Containers go before the emulator, which would take seconds over each, and again behind it.
        """
        remove_containers(self.place.label)
        end_marked(RUN)
        remove_containers(self.place.label)
        remove_image_names({name for name in image_names() - set(self.images) if PUSHED.match(name)})
        shutil.rmtree(RUN, ignore_errors=True)
        NOTE.unlink(missing_ok=True)

    def left(self) -> list[str]:
        """What is still there, in words."""
        return [*(f"process {number}" for number in marked_ids(RUN)),
                *(f"container {name}" for name in containers(self.place.label)),
                *(f"image {name}" for name in sorted(image_names() - set(self.images)) if PUSHED.match(name)),
                *(str(path) for path in (RUN, NOTE) if path.exists())]


def read_traces() -> Traces | None:
    """Of the last run, where it left any. Raises BadSettings for a note that cannot be read."""
    try:
        note = json.loads(NOTE.read_text())
        return Traces(**{**note, "place": Place(**note["place"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise BadSettings(f"Expected {NOTE} to tell what a rehearsal left, got something else. Look for containers whose label "
                          "ministack.instance begins with shutterless-rehearsal, remove them and this file.") from None


@contextmanager
def alone(folder: Path = STATE) -> Iterator[None]:
    """While no other rehearsal of this folder runs. Raises BadSettings where one does. Ends with the process, even by kill -9."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadSettings("Another rehearsal of this folder is running. Wait until it ends, or end it.") from None
    finally:
        os.close(handle)
