from pathlib import Path

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


def test_a_graph_out_of_a_bundle_whose_weights_lie_beside_it_can_be_quantised(tmp_path: Path):
    import onnx
    import torch

    from model_export.graph import write_graph
    from model_export.optimise import pack
    from model_export.quantize import quantize
    from shutterless.manifests import InputSpec

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    write_graph(net, InputSpec(size=32), tmp_path / "graph.onnx")
    pack(tmp_path / "graph.onnx", tmp_path / "model.onnx")
    quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", np.zeros((2, 32, 32, 3), np.uint8))
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(str(tmp_path / "int8.onnx")).graph.node}
