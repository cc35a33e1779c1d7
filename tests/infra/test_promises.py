"""Every promise holds in every stage, and each would notice if the app broke it, and it alone."""

from copy import deepcopy
from functools import cache

import pytest

from infra.stages import STAGES
from tests.infra.promises import PROMISES, Templates, Where
from tests.infra.switch_promises import SWITCH_PROMISES
from tests.infra.synthesized import EVERY, SYNTH_S, changed, synthesized

pytestmark = pytest.mark.timeout(SYNTH_S)
EACH = pytest.mark.parametrize("promise", [*PROMISES, *SWITCH_PROMISES], ids=lambda promise: promise.name)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_stage_keeps_its_promises(stage, promise):
    promise.check(synthesized(stage.name).templates, stage)


@pytest.mark.parametrize("promise", SWITCH_PROMISES, ids=lambda promise: promise.name)
def test_every_switch_keeps_its_promises(promise):
    promise.check(synthesized(promise.stage).templates, EVERY[promise.stage])


@cache
def broken(stage: str) -> tuple[Templates, dict[str, Where]]:
    """A stage with all its promises broken at once, and where each is."""
    places: dict[str, Where] = {}
    promises = [each for each in (*PROMISES, *SWITCH_PROMISES) if each.stage == stage]
    templates = changed(stage, lambda stacks: places.update({each.name: each.broken(stacks) for each in promises}))
    assert len(set(places.values())) == len(promises), "two promises are broken at one place, where one could hide the other"
    return templates, places


@EACH
def test_a_broken_promise_is_noticed(promise):
    templates, places = broken(promise.stage)
    with pytest.raises((AssertionError, KeyError, TypeError)):
        promise.check(only_there(promise.stage, templates, places[promise.name]), EVERY[promise.stage])


def only_there(stage: str, templates: Templates, where: Where) -> Templates:
    """A stage as it is, but for what was changed at this place."""
    found = deepcopy(synthesized(stage).templates)
    there, altered = found[where.stack]["Resources"], templates[where.stack]["Resources"][where.resource]
    if where.prop is None:
        there[where.resource] = altered
    elif where.prop in altered["Properties"]:
        there[where.resource]["Properties"][where.prop] = altered["Properties"][where.prop]
    else:
        del there[where.resource]["Properties"][where.prop]
    return found
