import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("torch")


def test_a_training_learns_and_says_on_what_its_figures_stand(run: Path):
    result = json.loads((run / "training.json").read_text())
    assert result["test_accuracy"]["value"] > 0.7
    assert result["test_accuracy"]["n"] == 24
    assert {name: part["n"] for name, part in result["split"].items()} == {"train": 72, "val": 24, "test": 24}
    assert len(result["history"]) == 3
    assert result["training"]["seed"] == 0


def test_a_training_ends_with_a_report_of_pictures(run: Path):
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "columns" in page
    assert "Expected calibration error" in page


class _StoppedError(Exception):
    pass


def test_a_training_that_was_stopped_goes_on_to_the_very_same_weights(training, run: Path, tmp_path: Path):
    import torch

    from model_export.train import Progress, train

    def stop_in_second_epoch(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (1, 2):
            raise _StoppedError

    with pytest.raises(_StoppedError):
        train(training, tmp_path, run / "prepared", stop_in_second_epoch)
    seen: list[int] = []
    train(training, tmp_path, run / "prepared", lambda progress: seen.append(progress.epoch))
    assert set(seen) == {1, 2}
    straight, resumed = (torch.load(folder / "weights.pth", weights_only=True) for folder in (run, tmp_path))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_weights_whose_writing_is_broken_off_stay_as_they_were(training, run: Path, tmp_path: Path, monkeypatch):
    from model_export.train import train

    def save_half(content: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    folder = Path(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr("torch.save", save_half)
    with pytest.raises(KeyboardInterrupt):
        train(training, folder, run / "prepared")
    assert (folder / "weights.pth").read_bytes() == (run / "weights.pth").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in run.iterdir()}


def test_other_settings_do_not_go_on_in_the_same_folder(training, run: Path):
    from model_export.errors import ExportError
    from model_export.train import train

    with pytest.raises(ExportError, match="other settings \\(learning_rate\\)"):
        train(replace(training, learning_rate=0.5), run, run / "prepared")


def test_too_few_pictures_for_a_batch_are_refused(training, tmp_path: Path):
    from model_export.errors import ExportError
    from model_export.train import train

    with pytest.raises(ExportError, match="smaller --batch"):
        train(replace(training, batch=500), tmp_path, tmp_path)


def test_turned_and_mirrored_pictures_hold_the_same_pixels():
    import torch

    from model_export.augment import mirror, turn

    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(64, 3, 6, 6)
    for views in (mirror(pixels, generator), turn(pixels, generator)):
        assert torch.equal(views.flatten(1).sort(1).values, pixels.flatten(1).sort(1).values)
        assert not torch.equal(views, pixels)


def test_augmented_pictures_stay_in_range_and_shape():
    import torch

    from model_export.augment import augment

    pixels = torch.rand(9, 3, 16, 16)
    for upright in (True, False):
        views = augment(pixels, torch.Generator().manual_seed(1), upright=upright)
        assert views.shape == pixels.shape
        assert float(views.min()) >= 0
        assert float(views.max()) <= 1
