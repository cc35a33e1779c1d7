"""Stages as synth writes them, each once in a test run and only if a test asks, held to AWS's rules on the way."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION"] = "1"  # read when aws_cdk is imported

import aws_cdk as cdk

from infra.rules import hold_to_rules
from infra.stacks import Stacks, build
from infra.stages import STAGES, Aurora, Database, Function, Stage

Template = dict[str, Any]
SYNTH_S = 900  # a test's timeout: the first that asks for a stage waits for its synth, minutes where others use the CPU
SWITCHED = {stage.name: stage for stage in (  # what no stage of ours turns on; AWS takes not all of it together
    Stage(name="guarded", architecture="arm64", waf=True, iam_auth=True, alarm_email="a@example.org", budget_usd=50,
          functions={"predict": Function(memory_mb=1769, timeout_s=20, provisioned=1, reserved=5)},
          database=Database(proxy=True)),
    Stage(name="snapped", snapstart=True, canary=10, model_from="bucket", batch=20, batch_window_s=5,
          database=Database(aurora=Aurora(), in_two_zones=True)))}
EVERY = {**STAGES, **SWITCHED}


class Synthesized(NamedTuple):
    """templates: by the stack's role, such as Api. assets: what the functions' stack publishes. findings: of cdk-nag and CDK
    itself, as (rule, construct's path); excused: those for which an exception is written down."""

    folder: Path
    templates: dict[str, Template]
    assets: dict[str, Any]
    findings: list[tuple[str, str]]
    excused: list[tuple[str, str]]


@cache
def synthesized(stage: str) -> Synthesized:
    """One of EVERY."""
    folder = new_folder()
    app = cdk.App(analytics_reporting=False, outdir=str(folder))
    hold_to_rules(app, build(app, EVERY[stage]))
    try:
        app.synth()
    except RuntimeError as error:
        if "ValidationFailed" not in str(error):
            raise
    report = json.loads((folder / "validation-report.json").read_text())
    return Synthesized(folder, templates_in(folder), json.loads((folder / "Service.assets.json").read_text()),
                       read_findings(report, "violations"), read_findings(report, "suppressedViolations"))


def changed(stage: str, change: Callable[[Stacks], None]) -> dict[str, Template]:
    """The templates of a stage whose app was changed before synth."""
    folder = new_folder()
    app = cdk.App(analytics_reporting=False, outdir=str(folder))
    change(build(app, EVERY[stage]))
    app.synth()
    return templates_in(folder)


def new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="synth-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def templates_in(folder: Path) -> dict[str, Template]:
    return {file.name.partition(".")[0]: json.loads(file.read_text()) for file in folder.glob("*.template.json")}


def read_findings(report: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    return [(violation["ruleName"], construct["constructPath"]) for plugin in report["pluginReports"]
            for violation in plugin.get(kind, []) for construct in violation["violatingConstructs"]]


def of_type(template: Template, kind: str) -> list[dict[str, Any]]:
    """Properties of all resources of a type."""
    return [resource.get("Properties", {}) for resource in template["Resources"].values() if resource["Type"] == kind]


def as_text(value: Any) -> str:
    """A value with CloudFormation's functions in it, these as short words in angle brackets."""
    if isinstance(value, dict) and "Fn::Join" in value:
        between, parts = value["Fn::Join"]
        return between.join(as_text(part) for part in parts)
    if isinstance(value, dict):
        (name, what), = value.items()
        return f"<{what if isinstance(what, str) else '.'.join(map(str, what))}>" if name != "Fn::Select" else "<part>"
    return str(value)
