"""The notebooks' own cells, on few pictures and with small numbers."""

import json
import shlex
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "model_export" / "notebooks").glob("*.ipynb"))


def _cells(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output_of_somebody_s_machine(notebook: Path):
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in content["cells"] if "outputs" in cell)


@pytest.mark.needs("torch")
def test_the_notebook_trains_exports_and_asks(class_folders: Path, tmp_path: Path, monkeypatch, capsys):
    """Its first cell holds the numbers, which are made small, and weights come from a file; a line with a `!` is a command."""
    import torch
    from torchvision import models

    from cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHUTTERLESS_MODELS_DIR", str(tmp_path / "models"))
    torch.save(models.resnet18().state_dict(), "resnet18-imagenet.pth")  # as torchvision publishes it: a thousand labels
    first, *others = _cells(NOTEBOOKS[0])
    names: dict[str, object] = {}
    exec(first, names)
    small = {"DATA": class_folders, "ARCH": "resnet18", "WEIGHTS": "resnet18-imagenet.pth", "SIZE": 32, "EPOCHS": 1, "BATCH": 16}
    assert small.keys() < names.keys()
    names |= small
    for cell in others:
        if cell.startswith("!shutterless "):
            assert main(shlex.split(cell.removeprefix("!shutterless ").format(**names))) == 0
        else:
            exec(cell, names)
    assert "bundle: models/my-resnet50/1" in capsys.readouterr().out
    assert names["answer"].prediction.label in ("checks", "columns", "rows")
