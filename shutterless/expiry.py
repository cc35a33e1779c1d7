"""Pictures that were expected and never came: found when someone looks, so that no clock has to run for them.

A row is pending from the moment when a door gives out a form, or begins to store a picture. If the picture has not come when
that time is over, because the form was not used or the door was killed, the row is failed, `never_arrived`. Only reading a
row can show that it is late: so whoever reads calls `expire_late` before, and nobody ever sees such a row as pending.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from shutterless.uploads import NEVER_ARRIVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from shutterless.objects import Objects
    from shutterless.results import Results

AT_ONCE = 20
LOOK_AGAIN_S = 900  # at a picture that has come, and waits for its answer
MOST_S = 5.0  # of one reader's time; the next one goes on


def expire_late(results: Results, objects: Callable[[], Objects]) -> int:
    """Fail all rows whose time is over and whose picture has not come; returns how many. Where none is late, it costs one
    statement. Raises Unavailable."""
    expired, began = 0, monotonic()
    while monotonic() - began < MOST_S and (late := results.claim(AT_ONCE, LOOK_AGAIN_S)):
        for record in late:
            if record.object_key is None or not objects().has(record.object_key):
                expired += results.expire(record.request_id, NEVER_ARRIVED)
    return expired
