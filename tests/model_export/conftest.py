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
