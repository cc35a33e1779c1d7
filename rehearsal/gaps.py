"""gaps.toml: what the emulator cannot do, so that no rehearsal vouches for it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "gaps.toml"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """what: not rehearsed. why. held_by: what vouches for it instead. types: of CloudFormation, only noted by the emulator, or
    left out of the stage."""

    what: str
    why: str
    held_by: str
    types: tuple[str, ...] = ()


def read_gaps(file: Path = FILE) -> list[Gap]:
    """In the order of the file. Raises TypeError for an entry that lacks something."""
    entries = tomllib.loads(file.read_text(encoding="utf-8"))["gap"]
    return [Gap(**{**entry, "types": tuple(entry.get("types", ()))}) for entry in entries]
