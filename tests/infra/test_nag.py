"""Every template of every stage, held to AWS's rules (cdk-nag) and to CloudFormation's grammar (cfn-lint)."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.rules import EXCEPTIONS, Exempt
from infra.stages import STAGES
from tests.infra.synthesized import synthesized

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", STAGES)
def test_aws_s_rules_hold_but_for_the_exceptions_that_are_written_down(stage):
    assert synthesized(stage).findings == []


@pytest.mark.parametrize("stage", STAGES)
def test_cfn_lint_finds_nothing(stage):
    templates = sorted(str(file) for file in synthesized(stage).folder.glob("*.template.json"))
    assert len(templates) == 7
    done = subprocess.run([Path(sys.executable).with_name("cfn-lint"), *templates], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("exempt", EXCEPTIONS, ids=lambda exempt: f"{exempt.rule}-{exempt.where[0]}")
def test_every_exception_is_still_needed_everywhere_it_is_made(exempt: Exempt):
    """In one of the smallest stages: the larger ones break less."""
    rule = exempt.rule.rpartition("::")[2]
    excused = [*synthesized("dev").excused, *synthesized("rehearsal").excused]
    paths = [path for name, path in excused if name.partition("[")[0].endswith(rule)]
    assert all(any(path.startswith(f"{place}/") for path in paths) for place in exempt.where)


def test_every_exception_has_a_reason_that_can_be_read():
    assert all(len(exempt.reason) > 40 and exempt.reason.endswith(".") for exempt in EXCEPTIONS)
