import numpy as np
import pytest

pytestmark = pytest.mark.needs("torch")


def _answers(n: int, wrong: int) -> np.ndarray:
    """Logits (n, 2) of pictures whose label is 0, of which the first `wrong` are taken for 1."""
    logits = np.tile([1.0, 0.0], (n, 1))
    logits[:wrong] = logits[:wrong, ::-1]
    return logits


def test_a_clear_loss_of_accuracy_is_refused():
    from model_export.quantize import Unproven, check_drop

    with pytest.raises(Unproven, match=r"on 60 unseen pictures it loses 50\.00 points"):
        check_drop(_answers(60, 0), _answers(60, 30), np.zeros(60, np.int64))


def test_one_picture_of_few_proves_nothing():
    from model_export.quantize import Unproven, check_drop

    with pytest.raises(Unproven, match=r"it loses 3\.33 points"):
        check_drop(_answers(30, 0), _answers(30, 1), np.zeros(30, np.int64))


def test_a_loss_that_is_small_enough_is_told():
    from model_export.quantize import check_drop

    assert check_drop(_answers(1000, 0), _answers(1000, 2), np.zeros(1000, np.int64)).points == pytest.approx(0.2)
