import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.calibration import find_calibration, find_outliers, folder_labels
from model_export.datasets import prepare
from model_export.errors import ExportError
from shutterless.manifests import InputSpec

pytestmark = pytest.mark.needs("torch")
SPEC = InputSpec(size=16)
KINDS = ("checks", "columns", "rows")


def test_a_flat_folder_is_enough_and_its_broken_picture_is_skipped_by_name(flat_pictures: Path, tmp_path: Path):
    found = find_calibration(flat_pictures, KINDS, SPEC, tmp_path)
    assert (len(found.pictures.names), found.labelled) == (40, False)
    assert "1 skipped (torn.png: Expected a whole PNG picture" in found.said
    assert set(found.parts["train"]) | set(found.parts["val"]) == set(range(40))
    assert not set(found.parts["train"]) & set(found.parts["val"])
    assert len(found.parts["test"]) == 40


def test_what_was_prepared_on_the_way_is_what_the_chain_takes(flat_pictures: Path, tmp_path: Path):
    found = find_calibration(flat_pictures, KINDS, SPEC, tmp_path)
    (made,) = tmp_path.iterdir()
    pixels = prepare(found.pictures, SPEC, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert len(pixels) == 40
    expected = np.asarray(Image.open(flat_pictures / found.pictures.names[7]).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels[7], expected)


def test_folders_whose_names_are_labels_give_labels_in_the_network_s_order(class_folders: Path, tmp_path: Path):
    found = find_calibration(class_folders, ("rows", "checks", "unseen", "columns"), SPEC, tmp_path)
    assert found.labelled
    first = found.pictures.names[0]
    assert (first.split("/")[0], found.pictures.targets[0]) == ("checks", 1)
    assert {name: len(part) for name, part in found.parts.items()} == {"train": 48, "val": 24, "test": 48}


def test_one_folder_that_is_no_label_takes_the_labels_from_all_and_is_named(class_folders: Path, tmp_path: Path):
    found = find_calibration(class_folders, ("checks", "rows", "stripes"), SPEC, tmp_path)
    assert not found.labelled
    assert "the folder of columns/columns_0.png is none" in found.said


def test_a_class_too_small_to_split_is_calibrated_on_without_labels(class_folders: Path, tmp_path: Path):
    shutil.copytree(class_folders / "rows", tmp_path / "some" / "rows")
    (tmp_path / "some" / "checks").mkdir()
    shutil.copy(class_folders / "checks" / "checks_0.png", tmp_path / "some" / "checks")
    found = find_calibration(tmp_path / "some", KINDS, SPEC, tmp_path)
    assert not found.labelled
    assert "fewer than 3 pictures" in found.said


def test_a_zip_with_a_damaged_member_is_read_but_for_that_one(flat_pictures: Path, tmp_path: Path):
    path = tmp_path / "flat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(3):
            archive.write(flat_pictures / f"{i}.png", f"deep/er/{i}.png")
    content = bytearray(path.read_bytes())
    content[content.find(b"IDAT") + 40] ^= 0xFF
    path.write_bytes(content)
    found = find_calibration(path, KINDS, SPEC, tmp_path)
    assert found.pictures.names == ("deep/er/1.png", "deep/er/2.png")
    assert "1 skipped (deep/er/0.png: Expected a file that can be read" in found.said


def test_names_that_are_left_out_are_told(flat_pictures: Path, tmp_path: Path):
    path = tmp_path / "flat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", ".hidden.png", "../outside.png", "__MACOSX/._a.png"):
            archive.write(flat_pictures / "0.png", name)
    found = find_calibration(path, KINDS, SPEC, tmp_path)
    assert found.pictures.names == ("a.png",)
    assert found.said.endswith("; 2 left out, since their names begin with a dot (../outside.png, .hidden.png)")


@pytest.mark.parametrize("content", [{}, {"notes.txt": b"x"}, {"a.png": b"not a picture"}, {".hidden.png": b""}])
def test_a_place_without_a_readable_picture_is_refused(tmp_path: Path, content: dict[str, bytes]):
    (tmp_path / "empty").mkdir()
    for name, text in content.items():
        (tmp_path / "empty" / name).write_bytes(text)
    with pytest.raises(ExportError, match="empty holds no picture that can be read"):
        find_calibration(tmp_path / "empty", KINDS, SPEC, tmp_path / "prepared")


def test_a_place_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match="neither a folder nor a zip"):
        find_calibration(tmp_path / "absent", KINDS, SPEC, tmp_path)


def test_of_very_many_pictures_without_labels_some_are_chosen(tmp_path: Path, monkeypatch, flat_pictures: Path):
    monkeypatch.setattr("model_export.calibration.MOST_UNLABELLED", 10)
    seen: list[tuple[int, int]] = []
    found = find_calibration(flat_pictures, KINDS, SPEC, tmp_path, lambda n, total: seen.append((n, total)))
    assert len(found.pictures.names) in (9, 10)
    assert seen == [(1, 10)] * 10


def test_pictures_of_the_same_names_in_another_place_are_other_pictures(tmp_path: Path):
    for place, colour in (("one", 10), ("two", 200)):
        (tmp_path / place).mkdir()
        Image.new("RGB", (16, 16), (colour,) * 3).save(tmp_path / place / "0.png")
    prepared = tmp_path / "prepared"
    found = [find_calibration(tmp_path / place, KINDS, SPEC, prepared) for place in ("one", "two")]
    pixels = [prepare(calibration.pictures, SPEC, prepared) for calibration in found]
    assert [int(p[0, 0, 0, 0]) for p in pixels] == [10, 200]


def test_folder_names_are_labels_only_where_every_picture_lies_in_a_folder(class_folders: Path, flat_pictures: Path):
    assert folder_labels(class_folders) == KINDS
    assert folder_labels(flat_pictures) == ()


def test_pictures_of_another_kind_come_from_anywhere_and_what_was_not_taken_is_told(flat_pictures: Path, tmp_path: Path,
                                                                                    monkeypatch):
    path = tmp_path / "strangers.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(4):
            archive.write(flat_pictures / f"{i}.png", f"deep/{i}.png")
        archive.write(flat_pictures / "torn.png", "deep/0torn.png")
        archive.write(flat_pictures / "0.png", "deep/.thumbnail.png")
    monkeypatch.setattr("model_export.calibration.MOST_OUTLIERS", 4)
    seen: list[tuple[int, int]] = []
    pixels, said = find_outliers(path, SPEC, lambda n, total: seen.append((n, total)))
    assert pixels.shape == (3, SPEC.side, SPEC.side, 3)
    assert said.startswith("3 of strangers.zip, the first 4 of 5 by name; 1 skipped (deep/0torn.png: ")
    assert said.endswith("; 1 left out, since their names begin with a dot (deep/.thumbnail.png)")
    assert seen == [(1, 4)] * 4


def test_a_place_without_strangers_is_refused(tmp_path: Path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(ExportError, match=r"holds no picture that can be read; 1 skipped \(torn\.png: "):
        find_outliers(tmp_path, SPEC)
