import numpy as np
import pytest

from model_export import metrics


def test_a_share_of_all_still_has_an_interval():
    found = metrics.share(100, 100)
    assert found.value == 1
    assert found.low == pytest.approx(0.963, abs=5e-4)  # Wilson's interval for 100 of 100
    assert found.high == 1


def test_the_interval_of_none_and_of_all_ends_exactly_at_them():
    for n in range(1, 300):
        assert metrics.share(n, n).high == 1
        assert metrics.share(0, n).low == 0


def test_shares_agree_with_a_published_example():
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3: 81 of 263 is 0.2553 to 0.3662
    found = metrics.share(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def _logits(predicted: list[int], n_labels: int = 3) -> np.ndarray:
    return np.eye(n_labels)[predicted] * 5.0


def test_a_paired_drop_counts_only_pictures_that_differ():
    targets = np.zeros(1000, np.int64)
    a = _logits([0] * 990 + [1] * 10)
    b = _logits([0] * 985 + [1] * 15)
    drop = metrics.paired_drop(a, b, targets)
    assert drop.points == pytest.approx(0.5)
    assert drop.low < 0.5 < drop.high < 1.2
    assert metrics.paired_drop(a, a, targets).points == 0


def test_the_confusion_matrix_has_true_labels_in_rows():
    counts = metrics.confusion(_logits([0, 1, 1, 2]), np.array([0, 0, 1, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_the_fitted_temperature_recovers_the_one_that_was_applied():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (20_000, 4))
    chances = metrics.softmax(logits)
    targets = np.array([generator.choice(4, p=p) for p in chances])
    assert metrics.fit_temperature(logits * 3, targets) == pytest.approx(3, rel=0.05)


def test_perfectly_calibrated_confidence_has_almost_no_error_and_overconfidence_has_much():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (20_000, 4))
    targets = np.array([generator.choice(4, p=p) for p in metrics.softmax(logits)])
    assert metrics.reliability(logits, targets, 1.0).error < 0.015
    assert metrics.reliability(logits, targets, 0.25).error > 0.1


def test_energy_and_softmax_survive_huge_logits():
    logits = np.array([[1e4, 0.0], [-1e4, -1e4]])
    assert np.isfinite(metrics.energy(logits)).all()
    assert metrics.softmax(logits).sum(1) == pytest.approx([1, 1])


def test_auroc_is_one_when_apart_half_when_mixed_and_counts_ties_half():
    assert metrics.auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert metrics.auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0
    assert metrics.auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_the_interval_of_an_auroc_narrows_with_more_cases_and_stays_within_one():
    low, high = metrics.auroc_interval(0.9, 51, 58)  # Hanley and McNeil's standard error is 0.03 there
    assert (high - low) / 2 == pytest.approx(1.96 * 0.03, rel=0.1)
    wide = metrics.auroc_interval(0.958, 20, 20)
    narrow = metrics.auroc_interval(0.958, 2000, 2000)
    assert wide[0] < narrow[0] < 0.958 < narrow[1] < wide[1] <= 1
    assert metrics.auroc_interval(1.0, 10, 10) == (1.0, 1.0)
