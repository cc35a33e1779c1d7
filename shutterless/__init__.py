"""The core: pictures, models, predictions, results. Every door (Lambda, on-prem, command line) is thin over it."""

import os

__version__ = "0.1.0"

# ONNX Runtime tells its makers how it is used, unless this is said before it is imported (its Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
