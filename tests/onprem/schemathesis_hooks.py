"""What Schemathesis cannot draw by itself: pictures, whole and broken, and forms that POST /uploads signed."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import requests
import schemathesis
from hypothesis import strategies
from PIL import Image

from shutterless.formats import JPEG, sniff


def draw(kind: str, side: int, colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(stream, kind)
    return stream.getvalue()


WHOLE = strategies.builds(draw, strategies.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
                          strategies.sampled_from([1, 2]), strategies.sampled_from(["red", "green", "blue"]))
CUT = strategies.builds(lambda picture, share: picture[:int(len(picture) * share)], WHOLE, strategies.floats(0, 0.99))
PICTURES = WHOLE | CUT | strategies.binary(max_size=100)

schemathesis.openapi.format("binary", PICTURES)
schemathesis.openapi.format("byte", PICTURES.filter(len).map(lambda picture: base64.b64encode(picture).decode()))
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, PICTURES)


@schemathesis.hook.apply_to(path="/uploads/form")
def before_call(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """A form with all of its fields gets those that were signed for its picture."""
    if case.meta.generation.mode.is_positive:
        file = case.body.pop("file")
        picture = file.data
        announced = {"content_type": (sniff(picture) or JPEG).content_type, "size_bytes": len(picture) or 1}
        answer = requests.post(f"{case.operation.base_url}/uploads", json=announced, headers={"x-api-key": os.environ["API_KEY"]},
                               timeout=60)
        case.body |= answer.json()["fields"] | {"file": file}  # last: what comes behind the file is not read
