"""Every promise holds in every stage, and each would notice if the app broke it, and it alone."""

from copy import deepcopy

import pytest

from infra.stages import STAGES
from tests.infra.promises import PROMISES, Templates, Where
from tests.infra.synthesized import SYNTH_S, changed, synthesized

pytestmark = pytest.mark.timeout(SYNTH_S)
EACH = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)


@EACH
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_stage_keeps_its_promises(stage, promise):
    promise.check(synthesized(stage.name).templates, stage)


@pytest.fixture(scope="module")
def broken() -> tuple[Templates, dict[str, Where]]:
    """dev, with every promise broken at once, and where each is."""
    places: dict[str, Where] = {}
    templates = changed("dev", lambda stacks: places.update({each.name: each.broken(stacks) for each in PROMISES}))
    assert len(set(places.values())) == len(PROMISES), "two promises are broken at one place, where one could hide the other"
    return templates, places


@EACH
def test_a_broken_promise_is_noticed(broken, promise):
    templates, places = broken
    with pytest.raises((AssertionError, KeyError, TypeError)):
        promise.check(only_there(templates, places[promise.name]), STAGES["dev"])


def only_there(templates: Templates, where: Where) -> Templates:
    """dev as it is, but for what was changed at this place."""
    found = deepcopy(synthesized("dev").templates)
    there, altered = found[where.stack]["Resources"], templates[where.stack]["Resources"][where.resource]
    if where.prop is None:
        there[where.resource] = altered
    elif where.prop in altered["Properties"]:
        there[where.resource]["Properties"][where.prop] = altered["Properties"][where.prop]
    else:
        del there[where.resource]["Properties"][where.prop]
    return found
