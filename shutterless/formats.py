"""Which format bytes are of, by the bytes alone: a name or a content type may lie."""

from __future__ import annotations

from typing import NamedTuple

from shutterless.errors import BadPicture, UnsupportedPicture


class PictureFormat(NamedTuple):
    """An accepted format: its name, its content type, its file extension without the dot."""

    name: str
    content_type: str
    extension: str


JPEG = PictureFormat("JPEG", "image/jpeg", "jpg")
PNG = PictureFormat("PNG", "image/png", "png")
WEBP = PictureFormat("WebP", "image/webp", "webp")
GIF = PictureFormat("GIF", "image/gif", "gif")
BMP = PictureFormat("BMP", "image/bmp", "bmp")
TIFF = PictureFormat("TIFF", "image/tiff", "tif")
FORMATS = (JPEG, PNG, WEBP, GIF, BMP, TIFF)
ACCEPTED = "JPEG, PNG, WebP, GIF, BMP or TIFF"

_MAGIC = ((b"\xff\xd8\xff", JPEG), (b"\x89PNG\r\n\x1a\n", PNG), (b"GIF87a", GIF), (b"GIF89a", GIF),
          (b"II*\0", TIFF), (b"MM\0*", TIFF), (b"II+\0", TIFF), (b"MM\0+", TIFF))
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_OTHERS = ((4, b"ftypavi", "AVIF"), (4, b"ftyphei", "HEIC"), (4, b"ftyphev", "HEIC"), (4, b"ftypmif1", "HEIC"),
           (4, b"ftypmsf1", "HEIC"), (4, b"jP  ", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
           (4, b"JXL ", "JPEG XL"), (0, b"\xff\x0a", "JPEG XL"), (0, b"%PDF", "PDF"), (0, b"%!PS", "PostScript"),
           (0, b"8BPS", "Photoshop"), (0, b"\0\0\1\0", "ICO"), (0, b"\0\0\2\0", "CUR"), (0, b"qoif", "QOI"),
           (0, b"DDS ", "DDS"), (0, b"v/1\1", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"))


def sniff(picture: bytes) -> PictureFormat | None:
    """The accepted format that the first bytes announce, or None."""
    for magic, found in _MAGIC:
        if picture.startswith(magic):
            return found
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return WEBP
    if picture[:2] == b"BM" and int.from_bytes(picture[14:18], "little") in _BMP_HEADER_BYTES:
        return BMP
    return None


def refusal(picture: bytes) -> BadPicture:
    """The error for bytes that `sniff` does not know: it names the format where that is some other picture's."""
    if not picture:
        return BadPicture(f"Expected the bytes of a picture ({ACCEPTED}), got none. Send the file's content.")
    name = next((name for at, magic, name in _OTHERS if picture.startswith(magic, at)), None)
    if picture[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<svg" in picture[:4096]:
        name = "SVG"
    if name:
        return UnsupportedPicture(f"Expected {ACCEPTED}, got {name}. Convert the picture to JPEG or PNG.")
    return BadPicture(f"Expected a picture ({ACCEPTED}), got bytes that begin like none of them. "
                      "Check that the right file was sent, and sent whole.")
