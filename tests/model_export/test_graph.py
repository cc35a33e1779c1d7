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
