"""Function predict: one picture, one answer, nothing kept. Outside the VPC, without a database."""

from __future__ import annotations

import os
from typing import Any

from lambdas.environment import read_settings
from lambdas.start import Model

MODEL = Model(read_settings(os.environ))
with MODEL.opening():
    from lambdas.door import serve
    from lambdas.predictions import Predictions
    from lambdas.snapshots import on_restore

    DOOR = Predictions(MODEL).door()
on_restore(MODEL.steps.forget)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """What Lambda calls."""
    return serve(event, context, DOOR)
