from types import SimpleNamespace

from onprem.tallies import CONFIDENCE, FAILURES, GONE, OTHER, Histogram, ModelTally, Tallies, reason_of
from shutterless import errors


def test_a_value_on_a_bound_counts_below_it_and_one_above_all_bounds_at_the_end() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 14.0)


def test_a_model_of_a_thousand_labels_shows_twenty_and_counts_the_others_together() -> None:
    tally = ModelTally({"name": "many", "version": "1", "sha256": "0"})
    for number in range(1000):
        tally.count(f"label {number}", 0.5, None)
        tally.count("label 3", 0.5, None)
    assert len(tally.labels) == 21
    assert tally.labels["label 3"] == 1001
    assert tally.labels[OTHER] == 980
    assert sum(tally.labels.values()) == sum(tally.confidence.counts) == 2000


def test_pictures_unlike_what_the_model_learned_from_are_counted_where_it_can_tell() -> None:
    tally = ModelTally({})
    for told in (True, False, None, False):
        tally.count("a", CONFIDENCE[0], told)
    assert tally.strangers == 2


def test_a_client_that_left_is_no_error_of_the_server() -> None:
    tallies = Tallies()
    tallies.began()
    tallies.answered({"method": "POST", "path": "/predict", "state": {}, "route": SimpleNamespace(path="/predict")}, GONE, 0.1)
    assert tallies.requests == {("/predict", "POST", 499): 1}
    assert tallies.failures["request", "client_closed_request"] == 1
    assert tallies.in_flight == 0


def test_reasons_are_the_names_of_our_errors() -> None:
    assert reason_of(errors.TooLarge()) == "too_large"
    assert reason_of(errors.Unavailable()) == "unavailable"
    assert reason_of(KeyError()) == "key_error"
    known = {reason_of(error()) for error in vars(errors).values() if isinstance(error, type)}
    assert set(FAILURES["upload"]) - known == {"stalled"}
