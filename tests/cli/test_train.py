import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from cli import train

pytestmark = pytest.mark.needs("torch")


def test_every_setting_of_a_training_can_be_typed_and_has_the_same_default():
    from model_export.train import Training

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    typed = vars(parser.parse_args(["tiles.zip", "--out", "run"]))
    assert {field.name: typed[field.name] for field in fields(Training)} == vars(Training(data="tiles.zip"))


def test_a_training_and_its_export_from_the_command_line(tmp_path: Path, monkeypatch, capsys):
    import numpy as np
    from PIL import Image

    from cli.main import main

    generator = np.random.default_rng(0)
    for label, colour in {"red": (200, 40, 40), "green": (40, 200, 40)}.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(30):
            pixels = generator.normal(colour, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    (tmp_path / "data" / "red" / ".thumbnail.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHUTTERLESS_MODELS_DIR", str(tmp_path / "models"))
    assert main(["train", "data", "--arch", "resnet18", "--weights", "none", "--size", "32", "--epochs", "2", "--batch", "8",
                 "--averaging", "0.5", "--out", "run"]) == 0
    said = capsys.readouterr()
    assert "test pictures (95 % interval" in said.out
    assert "data; 1 left out, since their names begin with a dot (red/.thumbnail.png)" in said.err
    assert main(["export", "run", "--name", "colours"]) == 0
    assert "bundle: models/colours/1" in capsys.readouterr().out
    assert main(["check", "models/colours/1"]) == 0
