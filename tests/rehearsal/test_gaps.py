"""The list of what no rehearsal vouches for: whole, readable, and neither longer nor shorter than the emulator's lacks."""

import json
import subprocess
from pathlib import Path

import pytest

from rehearsal.emulator_process import PYTHON, ROOT
from rehearsal.gaps import read_gaps

LISTED = {resource_type for gap in read_gaps() for resource_type in gap.types}
KNOWN = ("import json; from importlib import import_module; from rehearsal.emulator import SERVICES;"
         "[import_module('rehearsal.emulator.' + service).complete() for service in SERVICES];"
         "from rehearsal.emulator.handlers import TABLE; print(json.dumps(sorted(TABLE)))")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Types of CloudFormation that the completed emulator knows."""
    done = subprocess.run([PYTHON, "-c", KNOWN], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Types of CloudFormation in the rehearsal stage's templates."""
    import aws_cdk as cdk

    from infra.stacks import build

    app = cdk.App(outdir=str(tmp_path_factory.mktemp("cdk.out")))
    build(app, "rehearsal")
    templates = [json.loads(Path(stack.template_full_path).read_text()) for stack in app.synth().stacks]
    return {resource["Type"] for template in templates for resource in template["Resources"].values()}


def test_every_gap_says_why_it_is_one_and_what_holds_it_instead():
    gaps = read_gaps()
    assert len({gap.what for gap in gaps}) == len(gaps) > 5
    assert [gap.what for gap in gaps if len(gap.why) < 20 or len(gap.held_by) < 10] == []


def test_an_entry_without_a_reason_is_refused(tmp_path: Path):
    (tmp_path / "gaps.toml").write_text('[[gap]]\nwhat = "something"\n')
    with pytest.raises(TypeError, match="why"):
        read_gaps(tmp_path / "gaps.toml")


@pytest.mark.needs("emulator")
def test_what_the_stage_needs_is_known_to_the_emulator_or_listed(known: set[str], needed: set[str]):
    custom = {resource_type for resource_type in needed if resource_type.startswith("Custom::")}
    assert needed - custom - known - LISTED == set()


@pytest.mark.needs("emulator")
def test_the_only_custom_resource_is_the_migration(needed: set[str]):
    """And CDK's notifications of buckets, where the stage has them."""
    custom = {resource_type for resource_type in needed if resource_type.startswith("Custom::")}
    assert custom - {"Custom::S3BucketNotifications"} == {"Custom::ShutterlessSchema"}


@pytest.mark.needs("emulator")
def test_nothing_is_listed_that_the_emulator_knows_by_now(known: set[str]):
    assert LISTED & known == set()
