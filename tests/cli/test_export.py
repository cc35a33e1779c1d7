"""From what a user has to a bundle that answers, by the command they would type."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.main import main

pytestmark = pytest.mark.needs("torch")
NETS = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=7):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, pixels):
        return self.head(self.first(pixels).relu().mean((2, 3)))

class Wrapped(Net):
    def forward(self, pixels):
        return {"logits": super().forward(pixels)}

class Odd(Net):
    def forward(self, pixels):
        return torch.special.bessel_j0(super().forward(pixels))
'''


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch) -> Path:
    """The user's folder: usernets.py, net.pth, labels.txt, 50 tiles and a broken one."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHUTTERLESS_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "usernets", raising=False)
    (tmp_path / "usernets.py").write_text(NETS)
    (tmp_path / "labels.txt").write_text("\n".join("ABCDEFG") + "\n")
    generator = np.random.default_rng(3)
    (tmp_path / "tiles").mkdir()
    for i in range(50):
        colour, noise = generator.integers(0, 200, 3), generator.integers(0, 56, (32, 32, 3))
        Image.fromarray((colour + noise).astype(np.uint8)).save(tmp_path / "tiles" / f"{i}.png")
    (tmp_path / "tiles" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    torch.manual_seed(0)
    torch.save(_net().state_dict(), "net.pth")
    return tmp_path


def _net():
    import importlib

    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module("usernets").Net().eval()


def _expected(model, mean: list[float], std: list[float]) -> list[int]:
    """Top-1 of the tiles, by torchvision's own preprocessing and the network itself."""
    import torch
    from torchvision import transforms

    usual = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize(mean, std)])
    with torch.inference_mode():
        return model(torch.stack([usual(Image.open(f"tiles/{i}.png")) for i in range(50)])).argmax(1).tolist()


def _answers(model: str, capsys) -> list[dict]:
    assert main(["predict", "--json", "--model", f"models/{model}/1", *(f"tiles/{i}.png" for i in range(50))]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_a_fresh_resnet_with_seven_classes_from_its_pth_to_answers_that_are_torch_s(workplace: Path, capsys):
    import torch
    from torchvision import models

    torch.manual_seed(1)
    model = models.resnet18(num_classes=7)
    with torch.no_grad():
        model(torch.rand(16, 3, 32, 32))  # gives its batch norms something to stand on
    torch.save(model.eval().state_dict(), "my.pth")
    assert main(["export", "my.pth", "--arch", "resnet18", "--labels", "labels.txt", "--calibration", "tiles/", "--size", "32",
                 "--name", "roofs"]) == 0
    said = capsys.readouterr()
    assert "1 skipped (broken.jpg: " in said.err
    assert "models/roofs/1" in said.out
    card = Path("models/roofs/1/report.md").read_text()
    assert "broken.jpg" in card
    assert "squashed to 32 x 32 px, bilinear, mean 0.485" in card
    assert main(["check", "roofs"]) == 0
    capsys.readouterr()
    expected, answers = _expected(model, *IMAGENET), _answers("roofs", capsys)
    assert len(set(expected)) > 1
    assert [answer["pred_index"] for answer in answers] == expected
    assert [answer["label"] for answer in answers] == ["ABCDEFG"[i] for i in expected]


def _as_checkpoint(net) -> list[str]:
    import torch

    torch.save({"state_dict": {f"model.{key}": value for key, value in net.state_dict().items()}, "epoch": 9,
                "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"args": argparse.Namespace(lr=0.1)}}, "my.ckpt")
    return ["my.ckpt", "--arch", "usernets:Net", "--size", "32"]


def _as_safetensors(net) -> list[str]:
    from safetensors.torch import save_file

    save_file(net.state_dict(), "my.safetensors")
    return ["my.safetensors", "--arch", "usernets:Net", "--size", "32"]


def _as_program(net) -> list[str]:
    import torch

    exported = torch.export.export(net, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(exported, "my.pt2")
    return ["my.pt2"]


@pytest.mark.parametrize("form", [_as_checkpoint, _as_safetensors, _as_program])
def test_other_forms_of_the_same_network_answer_the_same(workplace: Path, capsys, form):
    net = _net()
    assert main(["export", *form(net), "--labels", "labels.txt", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3]) == 0
    said = capsys.readouterr()
    assert "no pictures were given: fp32 only, and its accuracy is not known" in said.err
    assert "from --size, --mean, --std" in said.err or "from --mean, --std" in said.err
    assert [answer["pred_index"] for answer in _answers("my", capsys)] == _expected(net, [0.5] * 3, [0.25] * 3)


def test_class_folders_that_are_labels_give_accuracy_and_others_do_not_hinder(workplace: Path, capsys):
    for folder, tiles in {"A": range(20), "C": range(20, 50)}.items():
        Path("sorted", folder).mkdir(parents=True)
        for i in tiles:
            Path(f"tiles/{i}.png").rename(Path("sorted", folder, f"{i}.png"))
    assert main(["export", "net.pth", "--arch", "usernets:Net", "--labels", "labels.txt", "--calibration", "sorted",
                 "--size", "32", "--precision", "fp32"]) == 0
    manifest = json.loads(Path("models/net/1/manifest.json").read_text())
    assert manifest["report"]["accuracy"]["fp32"]["n"] == 20
    assert "50 of sorted, labelled by their folders" in capsys.readouterr().err


def _renamed() -> list[str]:
    import torch

    state = torch.load("net.pth", weights_only=True)
    state["head.bias_"] = state.pop("head.bias")
    torch.save(state, "renamed.pth")
    return ["renamed.pth", "--arch", "usernets:Net", "--size", "32"]


def _one_label_less() -> list[str]:
    Path("labels.txt").write_text("\n".join("ABCDEF") + "\n")
    return ["net.pth", "--arch", "usernets:Net", "--labels", "labels.txt", "--size", "32"]


def _twice() -> list[str]:
    Path("labels.txt").write_text("\n".join("ABCDEFA") + "\n")
    return ["net.pth", "--arch", "usernets:Net", "--labels", "labels.txt", "--size", "32"]


def _no_pictures() -> list[str]:
    Path("nothing").mkdir()
    return ["net.pth", "--arch", "usernets:Net", "--calibration", "nothing", "--size", "32"]


@pytest.mark.parametrize(("arguments", "words"), [
    (_renamed, "Missing: head.bias; unknown: head.bias_; other shape: none."),
    (_one_label_less, "labels.txt has 6 labels, and the weights have 7 outputs."),
    (_twice, "labels.txt names 'A' twice"),
    (_no_pictures, "nothing holds no picture that can be read"),
    (lambda: ["net.pth", "--arch", "usernets:Odd", "--size", "32"], "ONNX has no counterpart of its operator"),
    (lambda: ["net.pth", "--arch", "usernets:Wrapped", "--size", "32"], "answers a dict with logits"),
    (lambda: ["net.pth", "--arch", "resnet18", "--size", "32"], "not of this architecture"),
    (lambda: ["absent.pth", "--arch", "resnet18"], "There is no weights file absent.pth"),
    (lambda: ["labels.txt", "--arch", "resnet18"], "labels.txt"),
    (lambda: ["net.pth"], "its architecture must be told"),
    (lambda: ["net.pth", "--arch", "usernets:Net", "--labels", "absent.txt"], "absent.txt cannot be read as labels"),
    (lambda: ["net.pth", "--arch", "usernets:Net", "--precision", "int8"], "int8 needs pictures"),
    (lambda: ["net.pth", "--arch", "usernets:Net", "--data", "tiles", "--calibration", "tiles"], "both name pictures"),
    (lambda: ["tiles", "--arch", "resnet18"], "leave out --arch"),
    (lambda: ["--labels", "labels.txt"], "its architecture must be told"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_refusal_is_one_sentence_with_a_remedy_and_leaves_no_bundle(workplace: Path, capsys, arguments, words: str):
    assert main(["export", *arguments(), "--name", "refused"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("shutterless: ")
    assert words in last
    assert not Path("models", "refused").exists()


def test_a_graph_that_is_not_whole_replaces_none_that_is(workplace: Path, capsys, monkeypatch):
    arguments = ["graph", "net.pth", "--arch", "usernets:Net", "--size", "32", "--out", "land.onnx"]
    assert main(arguments) == 0
    former, there = Path("land.onnx").read_bytes(), set(workplace.iterdir())

    def broken_off(path: str, **_: object) -> None:
        os.truncate(path, 100)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("onnx.checker.check_model", broken_off)
        assert main(arguments) == 130
    assert (Path("land.onnx").read_bytes(), set(workplace.iterdir())) == (former, there)
    assert main(arguments) == 0


def test_imagenet_weights_that_torch_has_fetched_bring_labels_and_preprocessing(workplace: Path, capsys, monkeypatch):
    import torch
    from torchvision import models

    monkeypatch.setattr(torch.hub, "_hub_dir", str(workplace / "hub"))
    Path("hub/checkpoints").mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), "hub/checkpoints/resnet18-f37072fd.pth")
    assert main(["export", "--arch", "resnet18", "--weights", "DEFAULT"]) == 0
    assert "labels: 1000 published with the weights" in capsys.readouterr().err
    assert main(["predict", "--json", "--model", "models/resnet18/1", "tiles/0.png"]) == 0
    answer = json.loads(capsys.readouterr().out)
    categories = models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert answer["label"] == categories[answer["pred_index"]]
    spec = json.loads(Path("models/resnet18/1/manifest.json").read_text())["input"]
    assert (spec["size"], spec["resize"], spec["crop"]) == (256, "shorter side", 224)


@pytest.mark.parametrize(("name", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_export_that_is_broken_off_leaves_no_bundle_and_the_next_one_works(workplace: Path, start, name, code: int):
    from shutterless.bundles import list_bundles

    arguments = ["export", "net.pth", "--arch", "usernets:Net", "--size", "32", "--calibration", "tiles", "--name", "roofs"]
    process = start(*arguments, SHUTTERLESS_MODELS_DIR="models")
    while not Path("models/roofs/.1.unfinished").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(name)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert list_bundles("models") == []
    assert Path("models/roofs").exists() == (name == signal.SIGKILL)
    assert main(arguments) == 0
    assert list_bundles("models") == [Path("models/roofs/1")]
    assert main(["check", "models/roofs/1"]) == 0
    assert [path.name for path in Path("models/roofs").iterdir()] == ["1"]
