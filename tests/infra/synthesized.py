"""Stages as synth writes them, each once in a test run, held to AWS's rules on the way."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import aws_cdk as cdk

from infra.rules import hold_to_rules
from infra.stacks import build

Template = dict[str, Any]


class Synthesized(NamedTuple):
    """templates: by the stack's role, such as Api. findings: of cdk-nag and CDK itself, as (rule, construct's path); excused:
    those for which an exception is written down."""

    folder: Path
    templates: dict[str, Template]
    findings: list[tuple[str, str]]
    excused: list[tuple[str, str]]


@cache
def synthesized(stage: str) -> Synthesized:
    """A stage of infra/stages.py."""
    folder = Path(tempfile.mkdtemp(prefix="synth-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    app = cdk.App(analytics_reporting=False, outdir=str(folder))
    hold_to_rules(app, build(app, stage))
    try:
        app.synth()
    except RuntimeError as error:
        if "ValidationFailed" not in str(error):
            raise
    templates = {file.name.partition(".")[0]: json.loads(file.read_text()) for file in folder.glob("*.template.json")}
    report = json.loads((folder / "validation-report.json").read_text())
    return Synthesized(folder, templates, read_findings(report, "violations"), read_findings(report, "suppressedViolations"))


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
