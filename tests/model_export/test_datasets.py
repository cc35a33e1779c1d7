import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.datasets import find_pictures, names_digest, prepare, split
from model_export.errors import ExportError
from shutterless.manifests import InputSpec

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.needs("torch")


def _zip(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, f"2750/{path.relative_to(folder)}")
    return target


def test_a_zip_and_a_folder_hold_the_same_pictures(class_folders: Path, tmp_path: Path):
    zipped, plain = find_pictures(_zip(class_folders, tmp_path / "kinds.zip")), find_pictures(class_folders)
    assert zipped.labels == plain.labels == ("checks", "columns", "rows")
    assert zipped.targets.tolist() == plain.targets.tolist()
    spec = InputSpec(size=16)
    assert np.array_equal(prepare(zipped, spec, tmp_path), prepare(plain, spec, tmp_path))


def test_a_split_keeps_the_proportion_of_each_class_and_no_picture_twice(class_folders: Path):
    pictures = find_pictures(class_folders)
    parts = split(pictures, seed=3, val=0.1, test=0.2)
    assert {name: np.bincount(pictures.targets[part]).tolist() for name, part in parts.items()} == {
        "train": [28] * 3, "val": [4] * 3, "test": [8] * 3}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(120))


def test_a_split_is_the_same_for_the_same_seed_and_another_for_another(class_folders: Path):
    pictures = find_pictures(class_folders)
    digest = {seed: names_digest(pictures.subset(split(pictures, seed=seed, val=0.1, test=0.2)["test"])) for seed in (1, 2)}
    assert digest[1] == names_digest(pictures.subset(split(pictures, seed=1, val=0.1, test=0.2)["test"]))
    assert digest[1] != digest[2]


def test_prepared_pictures_are_what_serving_would_see(class_folders: Path, tmp_path: Path):
    from shutterless.pictures import decode
    from shutterless.preprocessing import to_pixels

    pictures, spec = find_pictures(class_folders), InputSpec(size=24, crop=20)
    pixels = prepare(pictures, spec, tmp_path)
    expected = to_pixels(decode((class_folders / pictures.names[5]).read_bytes()), spec)
    assert pixels.shape == (120, 20, 20, 3)
    assert np.array_equal(pixels[5], expected)


KILLED = """
import os, signal, sys
from pathlib import Path
from model_export.datasets import find_pictures, prepare
from shutterless.manifests import InputSpec

told = getattr(signal, sys.argv[3])
prepare(find_pictures(sys.argv[1]), InputSpec(size=16), Path(sys.argv[2]), lambda n: os.kill(os.getpid(), told))
"""


def preparing(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT)


def test_what_a_killed_process_left_is_gone_after_the_next_one(class_folders: Path, tmp_path: Path):
    assert preparing(class_folders, tmp_path, "SIGKILL").wait() == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    prepare(find_pictures(class_folders), InputSpec(size=16), tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_what_another_process_is_still_writing_stays(class_folders: Path, tmp_path: Path):
    other = preparing(class_folders, tmp_path, "SIGSTOP")
    try:
        os.waitpid(other.pid, os.WUNTRACED)
        prepare(find_pictures(class_folders), InputSpec(size=24), tmp_path)
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npy", ".tmp"]
    finally:
        other.kill()
        other.wait()


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path):
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / kind / "fine.png")
    (tmp_path / "b" / "torn.png").write_bytes((tmp_path / "b" / "fine.png").read_bytes()[:40])
    with pytest.raises(ExportError, match=r"b/torn\.png"):
        prepare(find_pictures(tmp_path), InputSpec(size=8), tmp_path / "prepared")


@pytest.mark.parametrize("content", [{}, {"only": 3}])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, content: dict[str, int]):
    for kind, n in content.items():
        (tmp_path / kind).mkdir()
        for i in range(n):
            Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{i}.png")
    with pytest.raises(ExportError, match="at least 2"):
        find_pictures(tmp_path)


def test_a_class_too_small_to_split_is_named(tmp_path: Path):
    for kind, n in {"many": 9, "few": 2}.items():
        (tmp_path / kind).mkdir()
        for i in range(n):
            Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{i}.png")
    with pytest.raises(ExportError, match="Class few has 2"):
        split(find_pictures(tmp_path), seed=0, val=0.1, test=0.1)


def test_eurosat_is_read_from_its_official_zip(eurosat_zip: Path):
    pictures = find_pictures(eurosat_zip)
    assert len(pictures.labels) == 10
    assert "SeaLake" in pictures.labels
    assert len(pictures.names) >= 24_300
test_eurosat_is_read_from_its_official_zip.ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.needs("eurosat")]
