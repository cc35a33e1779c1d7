"""A bundle's graph without pictures."""

import numpy as np
import pytest

from shutterless.bundles import read_bundle
from shutterless.classifier import Classifier
from shutterless.sessions import Session


@pytest.fixture
def runs(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of all that is run."""
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(Session, "run", lambda self, pixels, run=Session.run: shapes.append(pixels.shape) or run(self, pixels))
    return shapes


@pytest.mark.parametrize(("slow_s", "expected"), [(0.0, 1), (60.0, 2)])
def test_a_slow_network_runs_once_at_start_and_a_fast_one_again(bundle_folder, monkeypatch, runs, slow_s, expected):
    monkeypatch.setattr("shutterless.sessions.SLOW_S", slow_s)
    classifier = Classifier(read_bundle(bundle_folder))
    classifier.warm_up()
    assert len(runs) == expected
    assert 0 < classifier.run_s < float("inf")


def test_a_session_that_is_open_and_warm_already_is_taken_as_it_is(bundle_folder, runs):
    bundle = read_bundle(bundle_folder)
    session = Session(bundle)
    session.warm_up()
    before = len(runs)
    classifier = Classifier(bundle, session=session)
    classifier.warm_up()
    assert len(runs) == before
    assert (classifier.model_load_s, classifier.run_s) == (session.load_s, session.run_s)
    black = np.zeros((1, bundle.manifest.input.side, bundle.manifest.input.side, 3), np.uint8)
    assert np.array_equal(classifier.classify(black), session.warm_up())
