import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shutterless.exif import ORIENTATION, orientation, read_directory


@pytest.mark.parametrize("value", range(1, 9))
def test_reads_the_orientation_that_pillow_writes(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert orientation(exif.tobytes()) == value


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_reads_both_byte_orders_of_tiff_and_bigtiff(order, big):
    start = {"<": b"II", ">": b"MM"}[order]
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + ("QHHQH6x" if big else "HHHIH2x"), 1, ORIENTATION, 3, 1, 6)
    assert orientation(start + head + entry) == 6


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_impossible_orientation_counts_as_upright(value):
    assert orientation(b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, ORIENTATION, 3, 1, value, 0)) == 1


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"Exif\0\0MM\0*"]))
def test_no_bytes_make_it_raise(tail, head):
    read_directory(head + tail)
    assert 1 <= orientation(head + tail) <= 8
