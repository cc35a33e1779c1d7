"""Request -> picture, within what a request to Lambda can carry."""

from __future__ import annotations

from lambdas.events import MAX_INLINE_BYTES, TOO_LARGE, Request
from shutterless.bodies import Submission, read_submission
from shutterless.errors import TooLarge


def read_picture(request: Request, max_bytes: int) -> Submission:
    """`read_submission` of a request's body. Raises as it does; TooLarge then names the way for larger pictures."""
    try:
        return read_submission(request.headers.get("content-type"), request.body, min(max_bytes, MAX_INLINE_BYTES))
    except TooLarge as error:
        raise (TooLarge(TOO_LARGE) if max_bytes > MAX_INLINE_BYTES else error) from error
