"""Every template of every stage, held to AWS's rules (cdk-nag) and to CloudFormation's grammar (cfn-lint)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.exempt import Exempt
from infra.rules import EXCEPTIONS
from tests.infra.synthesized import EVERY, SYNTH_S, synthesized, templates_in

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(SYNTH_S)


@pytest.mark.parametrize("stage", EVERY)
def test_aws_s_rules_hold_but_for_the_exceptions_that_are_written_down(stage):
    assert synthesized(stage).findings == []


def test_cfn_lint_finds_nothing():
    """In one run, since it takes longer to start than to look at a template."""
    templates = [str(file) for stage in EVERY for file in sorted(synthesized(stage).folder.glob("*.template.json"))]
    assert len(templates) == 7 * len(EVERY)
    done = subprocess.run([Path(sys.executable).with_name("cfn-lint"), *templates], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("exempt", EXCEPTIONS, ids=lambda exempt: f"{exempt.rule}-{exempt.where[0]}")
def test_every_exception_is_still_needed_everywhere_it_is_made(exempt: Exempt):
    rule, finding = exempt.rule.rpartition("::")[2], exempt.finding.rpartition("}")[2]
    paths = [path for stage in EVERY for name, path in synthesized(stage).excused
             if name.partition("[")[0].endswith(rule) and finding in name]
    assert [place for place in exempt.where if not any(path.startswith(f"{place}/") for path in paths)] == []


def test_every_exception_has_a_reason_that_can_be_read():
    assert all(len(exempt.reason) > 40 and exempt.reason.endswith(".") for exempt in EXCEPTIONS)


def test_what_is_deployed_without_the_rules_is_what_was_held_to_them(tmp_path):
    """The rehearsal deploys the app several times, and leaves the rules to these tests."""
    subprocess.run([sys.executable, "app.py"], cwd=ROOT, check=True, capture_output=True, env={
        **{name: value for name, value in os.environ.items() if name != "BASE_IMAGE" and not name.startswith(("AWS_", "CDK_"))},
        "CDK_OUTDIR": str(tmp_path), "CDK_CONTEXT_JSON": json.dumps({"stage": "rehearsal", "rules": "off"}),
        "CDK_VALIDATION": "false", "PYTHONPATH": str(ROOT)})
    assert templates_in(tmp_path) == synthesized("rehearsal").templates
    assert not (tmp_path / "validation-report.json").exists()
