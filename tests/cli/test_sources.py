from pathlib import Path

import pytest

from cli.sources import Source, find_sources
from shutterless.errors import BadPicture, NotFound


def test_a_folder_is_opened_out_by_suffix_and_by_first_bytes_and_hidden_files_stay_hidden(pictures):
    found = find_sources([str(pictures)], 1000)
    assert [Path(source.name).relative_to(pictures).as_posix() for source in found] == [
        "deep/blue", "deep/green.jpg", "red.png"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(pictures):
    assert find_sources([str(pictures / "notes.txt")], 1000) == [Source(str(pictures / "notes.txt"))]


def test_a_loop_of_links_ends(pictures):
    (pictures / "deep" / "up").symlink_to(pictures, target_is_directory=True)
    assert len(find_sources([str(pictures)], 1000)) == 3


def test_one_byte_more_than_the_limit_is_read_so_that_the_limit_can_speak(pictures):
    (pictures / "large.bmp").write_bytes(b"BM" + bytes(5000))
    assert len(Source(str(pictures / "large.bmp")).read(1000)) == 1001


@pytest.mark.parametrize(("name", "error", "sentence"), [
    ("gone", NotFound, "no file or folder"), ("deep", NotFound, "no picture in this folder"),
    ("red.png/x", BadPicture, "cannot be read"), ("x" * 5000, BadPicture, "cannot be read")])
def test_what_cannot_be_read_says_what_to_do(pictures, name, error, sentence):
    with pytest.raises(error, match=sentence):
        Source(str(pictures / name)).read(1000)
