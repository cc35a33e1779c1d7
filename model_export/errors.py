"""What can go wrong on the model's way. Every message is a sentence with a remedy; no half-written bundle is left."""

from shutterless.errors import Permanent


class ExportError(Permanent):
    """A step of train, export or publish refused its input."""

    title = "Model refused"
