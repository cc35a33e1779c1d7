"""ECR: an image that is not there is not found. The emulator answers an empty list, and CDK takes that for an image."""

from __future__ import annotations

import json
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import ecr

_describe_images = ecr._describe_images


def complete() -> None:
    """ecr:DescribeImages."""
    ecr._describe_images = describe_images


def describe_images(request: dict[str, Any]) -> Any:
    """As the emulator answers, but ImageNotFoundException where none of the images that were asked for is there."""
    answer = _describe_images(request)
    status, _, body = answer
    if request.get("imageIds") and status == 200 and not json.loads(body)["imageDetails"]:
        return error_response_json("ImageNotFoundException", "The image with imageId does not exist within the repository", 400)
    return answer
