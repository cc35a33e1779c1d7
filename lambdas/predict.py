"""Function predict: one picture, one answer, nothing kept. Outside the VPC, without a database."""

from __future__ import annotations

import os
from typing import Any

from lambdas.door import read_settings, serve
from lambdas.predictions import Predictions
from lambdas.snapshots import on_restore
from lambdas.start import Model

MODEL = Model(read_settings(os.environ))
DOOR = Predictions(MODEL).door()
MODEL.open()
on_restore(MODEL.steps.forget)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """What Lambda calls."""
    return serve(event, context, DOOR)
