"""Every promise holds in every stage, and each would notice if the app broke it."""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest

from infra.stages import STAGES


@cache
def _promises():
    place = Path(__file__).parent / "promises.py"
    spec = importlib.util.spec_from_file_location("infra_promises", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["infra_promises"] = module
    spec.loader.exec_module(module)
    return module.PROMISES


PROMISES = _promises()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_stage_keeps_its_promises(synth, stage, promise):
    promise.check(synth(stage.name), stage)


@pytest.fixture(scope="session")
def broken(synth):
    """dev, with every promise broken at once."""
    def break_it(stacks):
        for promise in PROMISES:
            promise.broken(stacks)
    return synth("dev", break_it)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_a_broken_promise_is_noticed(broken, promise):
    with pytest.raises((AssertionError, KeyError, TypeError)):
        promise.check(broken, STAGES["dev"])
