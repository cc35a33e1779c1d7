from pathlib import Path

import numpy as np
import pytest

from shutterless.manifests import InputSpec

pytestmark = pytest.mark.needs("torch")
SPEC = InputSpec(size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def _mean_of_channels():
    import torch

    class MeanOfChannels(torch.nn.Module):
        """Logits are the means of the three normalised channels: what the graph must add is all that is left."""

        def forward(self, pixels):
            return pixels.mean((2, 3))

    return MeanOfChannels()


def test_the_graph_takes_pictures_as_they_are_and_normalises_like_torchvision(tmp_path: Path):
    import torch
    from torchvision import transforms

    from model_export import runtime
    from model_export.graph import write_graph

    write_graph(_mean_of_channels(), SPEC, tmp_path / "graph.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize(SPEC.mean, SPEC.std)])
    expected = torch.stack([usual(picture) for picture in pixels]).mean((2, 3)).numpy()
    assert runtime.run(tmp_path / "graph.onnx", pixels, np.arange(5)) == pytest.approx(expected, abs=1e-5)


def test_the_graph_takes_batches_of_any_size(tmp_path: Path):
    from model_export import runtime
    from model_export.graph import INPUT, OUTPUT, opset, write_graph

    path = tmp_path / "graph.onnx"
    write_graph(_mean_of_channels(), SPEC, path)
    session = runtime.open_session(path)
    for n in (1, 3, 64):
        (logits,) = session.run([OUTPUT], {INPUT: np.zeros((n, 16, 16, 3), np.uint8)})
        assert logits.shape == (n, 3)
    assert opset(path) == 20


def _pooling(pooled, side: int):
    """A network that pools its maps in that way."""
    import torch

    class Pooling(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolve, self.scores = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8 * side * side, 3)

        def forward(self, pixels):
            return self.scores(pooled(self.convolve(pixels)).flatten(1))

    torch.manual_seed(0)
    return Pooling().eval()


@pytest.mark.parametrize(("pooling", "side", "nodes"), [
    (lambda nn: nn.AdaptiveAvgPool2d(1), 1, 1),
    (lambda nn: nn.AdaptiveAvgPool2d((1, 1)), 1, 1),
    (lambda nn: lambda maps: nn.functional.adaptive_avg_pool2d(maps, [1, 1]), 1, 1),
    (lambda nn: lambda maps: nn.functional.adaptive_avg_pool2d(output_size=1, input=maps), 1, 1),
    (lambda nn: nn.AdaptiveAvgPool2d(2), 2, 0),
    (lambda nn: nn.AdaptiveAvgPool2d((None, 14)), 14, 0)])
def test_pooling_over_whole_maps_is_one_mean_and_other_pooling_stays_what_it_is(tmp_path: Path, pooling, side: int, nodes: int):
    import onnx
    import torch

    from model_export import runtime
    from model_export.graph import write_graph

    net, path = _pooling(pooling(torch.nn), side), tmp_path / "graph.onnx"
    write_graph(net, SPEC, path)
    operators = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert operators.count("ReduceMean") == nodes
    assert not nodes or not {"Gather", "Range", "Shape"} & set(operators)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.inference_mode():
        expected = net((torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    for n in (1, 3):
        assert runtime.run(path, pixels[:n], np.arange(n)) == pytest.approx(expected[:n], abs=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_graph_of_a_resnet_pools_by_one_mean(tmp_path: Path, channels_last: bool):
    import onnx
    import torch

    from model_export import runtime
    from model_export.architectures import build
    from model_export.graph import Serving, write_graph

    torch.manual_seed(0)
    net, path = build("resnet18", 5, 16).eval(), tmp_path / "graph.onnx"
    if channels_last:  # as training leaves it
        net = net.to(memory_format=torch.channels_last)
    write_graph(net, SPEC, path)
    operators = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert operators.count("ReduceMean") == 1
    assert not {"Gather", "Range", "Shape"} & set(operators)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = Serving(net, SPEC)(torch.from_numpy(pixels)).numpy()
    for n in (1, 3):
        assert runtime.run(path, pixels[:n], np.arange(n)) == pytest.approx(expected[:n], abs=1e-4)


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path: Path):
    import torch

    from model_export.errors import ExportError
    from model_export.graph import write_graph

    class Bessel(torch.nn.Module):
        def forward(self, pixels):
            return torch.special.bessel_j0(pixels.mean((2, 3)))

    with pytest.raises(ExportError, match=r"ONNX has no counterpart of its operator [\w.]*bessel_j0.*Replace that operation"):
        write_graph(Bessel(), SPEC, tmp_path / "graph.onnx")
    assert not (tmp_path / "graph.onnx").exists()


def test_a_network_that_decides_by_its_input_is_one_sentence_and_nothing_is_printed(tmp_path: Path, capfd):
    import torch

    from model_export.errors import ExportError
    from model_export.graph import write_graph

    class Decides(torch.nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3)) if pixels.sum() > 0 else pixels.amax((2, 3))

    with pytest.raises(ExportError, match=r"a decision in its forward depends on the pictures' values.*torch\.where"):
        write_graph(Decides(), SPEC, tmp_path / "graph.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_network_for_one_batch_size_is_one_sentence(tmp_path: Path):
    import torch

    from model_export.errors import ExportError
    from model_export.graph import write_graph

    class Fixed(torch.nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3)).reshape(2, 3)

    with pytest.raises(ExportError, match=r"takes one batch size only\. Reshape by -1"):
        write_graph(Fixed(), SPEC, tmp_path / "graph.onnx")
