"""How far a picture has come. Apart from results.py, whose imports take longer than a door may wait for its first answer."""

from typing import Literal, get_args

Status = Literal["pending", "done", "failed", "stalled"]
STATUSES: tuple[str, ...] = get_args(Status)
