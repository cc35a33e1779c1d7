import numpy as np
import pytest

pytestmark = pytest.mark.needs("torch")


def _logits(n: int, margin: float) -> np.ndarray:
    logits = np.zeros((n, 3), np.float32)
    logits[np.arange(n), np.arange(n) % 3] = margin
    return logits


def _changed(logits: np.ndarray, n: int) -> np.ndarray:
    """The first `n` rows name another label."""
    changed = logits.copy()
    changed[:n] = np.roll(changed[:n], 1, axis=1)
    return changed


def test_agreement_is_counted_on_all_pictures_and_on_those_that_the_network_is_sure_of():
    from model_export.agreement import agreement

    expected = np.concatenate([_logits(50, margin=5), _logits(50, margin=0.1)])
    found = agreement(expected, _changed(expected, 2))
    assert (found.all.value, found.all.n) == (0.98, 100)
    assert found.sure is not None
    assert (found.sure.value, found.sure.n) == (0.96, 50)
    assert agreement(_logits(9, 0.1), _logits(9, 0.1)).sure is None


def test_int8_that_changes_next_to_nothing_is_taken():
    from model_export.agreement import agreement, check_agreement

    expected = _logits(200, margin=5)
    check_agreement(agreement(expected, _changed(expected, 2)), insisted=False)


def test_int8_that_changes_more_is_refused_with_figures_and_remedy():
    from model_export.agreement import agreement, check_agreement
    from model_export.quantize import Unproven

    expected = _logits(200, margin=5)
    with pytest.raises(Unproven, match=r"98\.50 % \(.*n = 200\) of the pictures, and 99% are needed\. .*--precision fp32"):
        check_agreement(agreement(expected, _changed(expected, 3)), insisted=False)
    with pytest.raises(Unproven, match="of the pictures that the network is sure of"):
        check_agreement(agreement(expected, _changed(expected, 3)), insisted=True)


def test_who_insists_accepts_other_labels_where_the_network_is_not_sure():
    from model_export.agreement import agreement, check_agreement
    from model_export.quantize import Unproven

    expected = np.concatenate([_logits(100, margin=0.1), _logits(100, margin=5)])
    found = agreement(expected, _changed(expected, 20))
    check_agreement(found, insisted=True)
    with pytest.raises(Unproven):
        check_agreement(found, insisted=False)


def test_a_few_pictures_vouch_for_nothing():
    from model_export.agreement import agreement, check_agreement
    from model_export.quantize import Unproven

    with pytest.raises(Unproven, match="31 pictures cannot vouch for it, 32 are needed"):
        check_agreement(agreement(_logits(31, 5), _logits(31, 5)), insisted=True)
