"""The core: pictures, models, predictions, results. Every door (Lambda, on-prem, command line) is thin over it."""

__version__ = "0.1.0"
