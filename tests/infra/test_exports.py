"""Switches can be turned on and off on a stage that is deployed: no stack takes away what another, not yet deployed again, still
imports. CloudFormation refuses that, and there would be no way out but to destroy."""

import json
import re
from itertools import permutations

import pytest

from tests.infra.synthesized import EVERY, SYNTH_S, as_text, synthesized

pytestmark = pytest.mark.timeout(SYNTH_S)
OTHER_DATABASE = re.compile(r"Database(Instance|Cluster)")  # one does not become the other: make deploy refuses that beforehand


def exports(stage: str) -> dict[str, str]:
    """Name of each export, the stage's own left out -> what it is."""
    return {plain(stage, as_text(told["Export"]["Name"])): plain(stage, as_text(told["Value"]))
            for template in synthesized(stage).templates.values() for told in template.get("Outputs", {}).values()
            if "Export" in told}


def imports(stage: str) -> set[str]:
    return {plain(stage, name) for template in synthesized(stage).templates.values()
            for name in re.findall(r'\{"Fn::ImportValue": "([^"]+)"\}', json.dumps(template))}


def plain(stage: str, text: str) -> str:
    return text.replace(f"shutterless-{stage}-", "shutterless-STAGE-")


ON_AWS = [name for name, stage in EVERY.items() if stage.iam_database]


@pytest.mark.parametrize(("before", "after"), list(permutations(ON_AWS, 2)))
def test_what_is_imported_before_a_deploy_is_still_exported_by_it_with_the_same_value(before, after):
    """The rehearsal's stage, with its password, becomes no other."""
    old, new = exports(before), exports(after)
    is_same_kind = EVERY[before].database.kind == EVERY[after].database.kind
    needed = {name for name in imports(before) if is_same_kind or not OTHER_DATABASE.search(name)}
    assert len(needed) > 15
    assert {name: new.get(name) for name in needed} == {name: old[name] for name in needed}
