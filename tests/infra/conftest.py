"""Stages synthesized once each for all tests: jsii takes seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ["JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION"] = "1"

Templates = dict[str, dict[str, Any]]  # stack -> its template


@pytest.fixture(scope="session")
def synth(tmp_path_factory):
    """`synth(stage)`, a Stage or its name: Templates. `break_it(stacks)`: changes the app before it is synthesized."""
    import aws_cdk as cdk

    from infra.stacks import build

    kept: dict[Any, Templates] = {}

    def synth(stage, break_it=None) -> Templates:
        key = (getattr(stage, "name", stage) if isinstance(stage, str) else id(stage), id(break_it))
        if key not in kept:
            folder = tmp_path_factory.mktemp("cdk")
            app = cdk.App(outdir=str(folder), context={"aws:cdk:disable-metadata": True})
            stacks = build(app, stage)
            if break_it:
                break_it(stacks)
            app.synth()
            kept[key] = {file.name.partition(".")[0]: json.loads(file.read_text()) for file in folder.glob("*.template.json")}
            kept[key]["assets"] = json.loads((Path(folder) / "Service.assets.json").read_text())
        return kept[key]

    return synth
