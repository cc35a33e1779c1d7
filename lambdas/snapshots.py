"""SnapStart: what a function has to renew when it wakes up as the copy of a snapshot.

https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
"""

from __future__ import annotations

import os
from collections.abc import Callable


def on_restore(action: Callable[[], object]) -> None:
    """Have `action` called in each restored copy. Without SnapStart nothing is imported and nothing happens.

    Every copy gets another random seed as well; ids come from os.urandom, which needs none.
    """
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        return
    import random

    from snapshot_restore_py import register_after_restore

    register_after_restore(random.seed)
    register_after_restore(action)


def before_snapshot(action: Callable[[], object]) -> None:
    """Have `action` called before the snapshot is taken, such as the closing of connections, which would be dead in each
    copy."""
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        from snapshot_restore_py import register_before_snapshot

        register_before_snapshot(action)
