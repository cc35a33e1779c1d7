"""Pictures that were expected and never came: found when someone looks, so that no clock has to run for them.

A row is pending from the moment when a door gives out a form, or begins to store a picture. If the picture has not come when
that time is over, because the form was not used or the door was killed, the row is failed, `never_arrived`. Only reading a
row can show that it is late: so whoever reads calls `expire_late` before, and nobody ever sees such a row as pending.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from shutterless.errors import Unavailable
from shutterless.uploads import NEVER_ARRIVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from shutterless.objects import Objects
    from shutterless.results import Record, Results

AT_ONCE = 20
LOOK_AGAIN_S = 900  # at a picture that has come, and waits for its answer
FAULT_S = 30  # at a picture of which the store did not say whether it came
MOST_S = 5.0  # of one reader's time; the next one goes on


def expire_late(results: Results, objects: Callable[[], Objects],
                came: Callable[[Record], object] = lambda record: None, *, most_s: float = MOST_S) -> int:
    """Fail all rows whose time is over and whose picture has not come; returns how many. Where none is late, it costs one
    statement; where many are, AT_ONCE are looked at together, until `most_s` seconds are over. `came` is told of a picture that
    is there all the same.

    Where the store does not say whether a picture came, its row waits for the next look: a reader has other things to ask.
    Raises Unavailable for the database, BadSettings for a store that cannot be used.
    """
    expired, began = 0, monotonic()
    while monotonic() - began < most_s and (late := results.late(AT_ONCE, LOOK_AGAIN_S)):
        gone, unknown = list[str](), list[str]()
        try:
            for record in late:
                try:
                    is_there = not unknown and record.object_key is not None and objects().has(record.object_key)
                except Unavailable:
                    unknown.append(record.request_id)
                    continue
                if unknown:
                    unknown.append(record.request_id)
                elif is_there:
                    came(record)
                else:
                    gone.append(record.request_id)
        finally:  # what was found out so far, whatever happened then
            expired += results.expire_expected(gone, NEVER_ARRIVED)
        for request_id in unknown:
            results.defer(request_id, FAULT_S)
        if unknown:
            break
    return expired
