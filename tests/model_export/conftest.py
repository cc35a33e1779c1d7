"""Drawn pictures of three kinds, and one small training on them that the tests of the chain share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

KINDS = ("checks", "columns", "rows")


def draw(kind: str, generator: np.random.Generator, side: int = 40) -> Image.Image:
    """Stripes or checks of random period, phase and colours, with noise."""
    period, phase = generator.integers(4, 8), generator.integers(0, 8)
    y, x = (np.indices((side, side)) + phase) // period % 2
    pattern = {"rows": y, "columns": x, "checks": x ^ y}[kind][..., None]
    dark, light = generator.integers(0, 90, 3), generator.integers(150, 250, 3)
    pixels = np.where(pattern, light, dark) + generator.normal(0, 8, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three class folders of 40 PNGs each."""
    root, generator = tmp_path_factory.mktemp("kinds"), np.random.default_rng(7)
    for kind in KINDS:
        (root / kind).mkdir()
        for i in range(40):
            draw(kind, generator).save(root / kind / f"{kind}_{i}.png")
    return root


@pytest.fixture(scope="session")
def training(class_folders: Path):
    """Settings small enough for a few seconds on one core."""
    from model_export.train import Training

    return Training(data=str(class_folders), arch="resnet18", weights=None, size=32, epochs=3, batch=18, val=0.2, test=0.2,
                    learning_rate=1e-3, averaging=0.5, upright=True)


@pytest.fixture(scope="session")
def run(training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    from model_export.train import train

    folder = tmp_path_factory.mktemp("run")
    train(training, folder, folder / "prepared")
    return folder


TINY_NETS = '''
"""Networks of somebody else's."""
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, num_classes=7, channels=3, size=None):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                                      nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, num_classes)

    def forward(self, pixels):
        return self.head(self.features(pixels).mean((2, 3)))


class Picky(Tiny):
    def forward(self, pixels):
        torch._assert(pixels.shape[2] == 24, f"expected 24, got {pixels.shape[2]}")
        return super().forward(pixels)


class Answers(Tiny):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, pixels):
        return self.how(super().forward(pixels))


def build(num_classes=7):
    return Tiny(num_classes)

def trained():
    torch.manual_seed(5)
    return Tiny(4)

def sharp():
    """Names the strongest channel."""
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[3].weight.copy_(9 * torch.eye(3))
    return net


def in_half():
    return trained().half()

def grey():
    return Tiny(channels=1)

def picky():
    return Picky()

def in_a_dict():
    return Answers(lambda logits: {"logits": logits, "loss": 0})

def in_a_tuple():
    return Answers(lambda logits: (logits, logits))

def as_a_map():
    return Answers(lambda logits: logits[:, :, None])

def yes_or_no():
    return Answers(lambda logits: logits[:, :1])

def as_probabilities():
    return Answers(lambda logits: logits.softmax(1))

def diverged():
    return Answers(lambda logits: logits * float("nan"))

def bessel():
    return Answers(lambda logits: torch.special.bessel_j0(logits))

def raises():
    raise KeyError("weights of 2019")

def no_network():
    return {"not": "a network"}

a_number = 7
'''


@pytest.fixture(scope="session")
def nets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module tinynets, as a user's working folder has one."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "tinynets.py").write_text(TINY_NETS)
    return folder


@pytest.fixture
def tinynets(nets_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The module itself; the test works in its folder."""
    import importlib
    import sys

    monkeypatch.chdir(nets_folder)
    monkeypatch.setattr(sys, "path", [str(nets_folder), *sys.path])
    return importlib.import_module("tinynets")


@pytest.fixture(scope="session")
def flat_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 pictures without labels, and a broken one."""
    root, generator = tmp_path_factory.mktemp("flat"), np.random.default_rng(11)
    for i in range(40):
        draw(KINDS[i % 3], generator).save(root / f"{i}.png")
    (root / "torn.png").write_bytes((root / "0.png").read_bytes()[:200])
    return root
