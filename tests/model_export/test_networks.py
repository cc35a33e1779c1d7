from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("torch")


def _find(source: object = None, size: int | None = 32, **wanted: object):
    from model_export.networks import Wanted, find_network
    from model_export.presets import Typed

    return find_network(Wanted(source=None if source is None else str(source), typed=Typed(size=size), **wanted))


def _saved(content: object, path: Path) -> Path:
    import torch

    torch.save(content, path)
    return path


def _same(model, other) -> bool:
    import torch

    pixels = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        return torch.equal(model(pixels), other.eval()(pixels))


def test_a_state_dict_becomes_a_network_with_as_many_outputs_as_it_has(tinynets, tmp_path: Path):
    for n in (2, 7):
        net = tinynets.build(n)
        network = _find(_saved(net.state_dict(), tmp_path / "my.pth"), arch="tinynets:build")
        assert network.n_outputs == n
        assert _same(network.model, net)
        assert (network.origin, len(network.weights_sha256)) == ("my.pth", 64)


def test_weights_that_are_named_by_an_option_are_the_same_weights(tinynets, tmp_path: Path):
    path = _saved(tinynets.build().state_dict(), tmp_path / "my.pth")
    by_option = _find(weights=str(path), arch="tinynets:build")
    assert by_option.weights_sha256 == _find(path, arch="tinynets:build").weights_sha256


def test_a_class_of_one_s_own_may_be_given_by_its_name(tinynets, tmp_path: Path):
    net = tinynets.Tiny(3)
    assert _same(_find(_saved(net.state_dict(), tmp_path / "my.pth"), arch="tinynets:Tiny").model, net)


def test_a_function_that_brings_its_weights_needs_no_file(tinynets):
    network = _find("tinynets:trained")
    assert network.n_outputs == 4
    assert _same(network.model, tinynets.trained())
    assert "which brings them" in network.origin


def test_a_network_of_half_precision_is_taken_with_the_same_weights(tinynets):
    assert _same(_find("tinynets:in_half").model, tinynets.in_half().float())


def test_another_number_of_labels_than_outputs_is_left_to_who_counts_labels(tinynets, tmp_path: Path):
    path = _saved(tinynets.build(7).state_dict(), tmp_path / "my.pth")
    assert _find(path, arch="tinynets:build", n_labels=6).n_outputs == 7


@pytest.fixture
def program(tinynets, tmp_path: Path):
    """`program(n, dynamic=True, **inputs)`: the file that torch.export.save wrote of a tiny network, and that network."""
    import torch

    def program(n: int = 2, dynamic: bool = True, side: int = 32, dtype=torch.float32, net=None):
        net = (net or tinynets.trained()).eval()
        shapes = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamic else {}
        exported = torch.export.export(net.to(dtype), (torch.rand(n, 3, side, side, dtype=dtype),), **shapes)
        torch.export.save(exported, tmp_path / "my.pt2")
        return tmp_path / "my.pt2", net
    return program


def test_a_program_says_its_own_size_and_answers_as_the_network_did(program, tmp_path: Path):
    import numpy as np

    from model_export.graph import write_graph
    from model_export.parity import check_parity
    from model_export.train import predict

    path, net = program()
    network = _find(path, size=None)
    spec = network.preprocessing.spec
    assert (network.arch, spec.side, network.n_outputs) == ("torch.export program", 32, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert predict(network.model, pixels, np.arange(5), spec) == pytest.approx(predict(net, pixels, np.arange(5), spec), abs=1e-5)
    write_graph(network.model, spec, tmp_path / "graph.onnx")
    assert check_parity(network.model, spec, tmp_path / "graph.onnx", pixels).top1_agreement == 1


def test_a_program_s_pooling_over_whole_maps_is_one_mean_too(program, tinynets, tmp_path: Path):
    import numpy as np
    import onnx
    import torch

    from model_export import runtime
    from model_export.graph import Serving, write_graph

    path, net = program(net=tinynets.sharp())
    network = _find(path, size=None)
    assert _same(network.model, net)
    spec = network.preprocessing.spec
    write_graph(network.model, spec, tmp_path / "graph.onnx")
    operators = {node.op_type for node in onnx.load(str(tmp_path / "graph.onnx")).graph.node}
    assert "ReduceMean" in operators
    assert not {"Gather", "Range", "Shape"} & operators
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = Serving(net, spec)(torch.from_numpy(pixels)).numpy()
    for n in (1, 3):
        assert runtime.run(tmp_path / "graph.onnx", pixels[:n], np.arange(n)) == pytest.approx(expected[:n], abs=1e-5)


def test_a_program_is_one_whatever_its_suffix(program, tmp_path: Path):
    path, _ = program()
    assert _find(path.rename(tmp_path / "my.pt")).n_outputs == 4


def test_a_program_for_one_batch_size_only_is_refused_with_the_remedy(program):
    from model_export.errors import ExportError

    path, _ = program(n=1, dynamic=False)
    with pytest.raises(ExportError, match=r"takes torch\.float32 \[1, 3, 32, 32\], expected .*dynamic_shapes"):
        _find(path)


def test_a_program_for_other_numbers_than_floats_is_refused(program):
    import torch

    from model_export.errors import ExportError

    path, _ = program(dtype=torch.float64)
    with pytest.raises(ExportError, match=r"takes torch\.float64"):
        _find(path)


def test_a_program_of_another_side_than_asked_is_refused_with_both(program):
    from model_export.errors import ExportError

    path, _ = program()
    with pytest.raises(ExportError, match=r"takes 32 px, and pictures are prepared to 48 px. Give --size 32"):
        _find(path, size=48)


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04 torn"])
def test_a_torn_program_is_one_sentence(tmp_path: Path, content: bytes):
    from model_export.errors import ExportError

    (tmp_path / "my.pt2").write_bytes(content)
    with pytest.raises(ExportError, match=r"my\.pt2 cannot be loaded as a program"):
        _find(tmp_path / "my.pt2")
    with pytest.raises(ExportError, match="There is no program"):
        _find(tmp_path / "absent.pt2")


@pytest.mark.parametrize(("function", "words"), [
    ("grey", "takes 1 channels, expected 3"), ("picky", "cannot take pictures of 32 x 32 px: .*expected 24, got 32"),
    ("in_a_dict", "answers a dict with logits, loss, expected one tensor"),
    ("in_a_tuple", "answers a tuple, expected one tensor"),
    ("as_a_map", r"answers \[2, 7, 1\] for 2 pictures"), ("yes_or_no", r"answers \[2, 1\] for 2 pictures"),
    ("as_probabilities", "answers probabilities, expected logits"), ("diverged", "answers NaN or infinity"),
    ("raises", r"tinynets:raises failed: KeyError: 'weights of 2019' \(tinynets\.py, line \d+\)"),
    ("no_network", r"returned a dict, expected a torch\.nn\.Module"), ("absent", "tinynets has no absent"),
    ("a_number", "a_number failed: TypeError")])
def test_a_network_that_cannot_be_served_is_refused_in_one_sentence(tinynets, function: str, words: str):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=words):
        _find(f"tinynets:{function}")


def test_a_module_that_is_not_there_is_named_and_so_is_one_that_it_imports(tmp_path: Path, monkeypatch):
    import sys

    from model_export.errors import ExportError

    (tmp_path / "needy.py").write_text("import a_package_that_nobody_has")
    (tmp_path / "faulty.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ExportError, match=r"no module absent_nets\. Run this where absent_nets/net\.py lies"):
        _find("absent_nets.net:build")
    with pytest.raises(ExportError, match="no module a_package_that_nobody_has, which needy imports"):
        _find("needy:build")
    with pytest.raises(ExportError, match=r"Importing faulty failed: ZeroDivisionError: .*faulty\.py, line 1"):
        _find("faulty:build")


def test_weights_of_grey_pictures_are_told_from_weights_of_another_architecture(tinynets, tmp_path: Path):
    from model_export.errors import ExportError

    path = _saved(tinynets.grey().state_dict(), tmp_path / "my.pth")
    with pytest.raises(ExportError, match=r"expected \(8, 3, 3, 3\), got \(8, 1, 3, 3\)\. .*number of channels"):
        _find(path, arch="tinynets:build")


@pytest.mark.parametrize(("wanted", "words"), [
    ({"source": "my.pth"}, "its architecture must be told"),
    ({"source": "my.pth", "weights": "DEFAULT", "arch": "resnet18"}, "given twice"),
    ({"arch": "resnet18"}, "There are no weights"),
    ({"source": "imagenet-lite0", "arch": "resnet18"}, "takes no --arch"),
    ({"source": "tinynets:build", "without": ("loss.",)}, "takes no --without"),
    ({"weights": "DEFAULT", "arch": "tinynets:build"}, "Nobody publishes weights for tinynets:build"),
])
def test_what_contradicts_itself_is_refused(wanted: dict, words: str):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=words):
        _find(**wanted)
