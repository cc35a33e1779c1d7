"""Everything that can go wrong, as one tree.

    ShutterlessError
    ├── Permanent                 record it, do not try again
    │   ├── BadPicture            400  not a picture that we can read
    │   │   ├── TooLarge          413  too many bytes or pixels
    │   │   └── UnsupportedPicture 415 a picture, in a format that we do not accept
    │   ├── BadRequest            422  a field or body that does not fit
    │   ├── NotFound              404
    │   ├── BadBundle             503  a model bundle that must not be served
    │   └── BadSettings           500  environment or deployment in which nothing can work
    └── Temporary                 503  try again
        ├── Unavailable                storage or database does not answer
        └── Overloaded                 queue or memory is full

A message is one sentence of what was expected and what came, and one of what to do. It is written for the client:
it carries no path, no secret and no text of another exception.
"""


class ShutterlessError(Exception):
    """Root of the tree. `status` is the HTTP status that every door answers with; `title` its short name."""

    status = 500
    title = "Something went wrong"


class Permanent(ShutterlessError):
    """Trying again changes nothing."""


class BadPicture(Permanent):
    """The bytes are not a picture that we can read."""

    status = 400
    title = "Not a readable picture"


class TooLarge(BadPicture):
    """More bytes or pixels than the limits allow."""

    status = 413
    title = "Picture too large"


class UnsupportedPicture(BadPicture):
    """A picture, but of a format or sample type that is not accepted."""

    status = 415
    title = "Picture format not supported"


class BadRequest(Permanent):
    """A field or a body that does not fit the contract."""

    status = 422
    title = "Invalid request"


class NotFound(Permanent):
    """No such result, model or picture."""

    status = 404
    title = "Not found"


class BadBundle(Permanent):
    """A model bundle that is incomplete, altered or of an unknown shape. Its message names files: it is for operators."""

    status = 503
    title = "Model not available"


class BadSettings(Permanent):
    """A setting, or a right that the deployment did not give. Its message names variables: it is for operators."""

    title = "Server not set up"


class Temporary(ShutterlessError):
    """The same call may succeed later."""

    status = 503
    title = "Try again"


class Unavailable(Temporary):
    """Storage or database does not answer."""


class Overloaded(Temporary):
    """A queue is full, or memory."""
