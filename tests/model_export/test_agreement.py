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


def test_agreement_is_counted_and_the_loss_is_what_the_network_gives_its_own_label_more():
    from model_export.agreement import agreement

    expected = np.log(np.tile([0.5, 0.3, 0.2], (100, 1))).astype(np.float32)
    other = np.where(np.arange(100)[:, None] < 10, [0, 1, 0], [1, 0, 0]).astype(np.float32)
    found = agreement(expected, other)
    assert (found.top1.value, found.top1.n) == (0.9, 100)
    assert found.loss_points == pytest.approx(10 * 0.2)
    assert agreement(expected, expected).loss_points == 0


def test_int8_that_changes_next_to_nothing_is_taken():
    from model_export.agreement import agreement, check_agreement

    expected = _logits(200, margin=5)
    check_agreement(agreement(expected, _changed(expected, 2)), insisted=False)


def test_int8_that_changes_more_is_refused_with_figures_and_remedy():
    from model_export.agreement import agreement, check_agreement
    from model_export.quantize import Unproven

    expected = _logits(200, margin=5)
    words = r"98\.50 % \(.*n = 200\) of the pictures, expected 99 %; 1\.4\d points .*--precision fp32"
    for insisted in (False, True):
        with pytest.raises(Unproven, match=words):
            check_agreement(agreement(expected, _changed(expected, 3)), insisted=insisted)


def test_who_insists_accepts_other_labels_where_the_network_wavers():
    from model_export.agreement import agreement, check_agreement
    from model_export.quantize import Unproven

    expected = np.concatenate([_logits(100, margin=0.05), _logits(100, margin=5)])
    found = agreement(expected, _changed(expected, 20))
    check_agreement(found, insisted=True)
    with pytest.raises(Unproven, match="--precision int8 takes it"):
        check_agreement(found, insisted=False)


def test_a_few_pictures_vouch_for_nothing():
    from model_export.agreement import agreement, check_agreement
    from model_export.quantize import Unproven

    with pytest.raises(Unproven, match="31 pictures cannot vouch for it, 32 are needed"):
        check_agreement(agreement(_logits(31, 5), _logits(31, 5)), insisted=True)
