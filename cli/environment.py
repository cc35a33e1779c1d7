"""The settings of one command: options that were typed, else the environment, else the file `.env`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.errors import BadSettings

if TYPE_CHECKING:
    from shutterless.settings import Settings


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Declare `--model`, which chooses the bundle in every command that answers with one."""
    parser.add_argument("--model", metavar="MODEL", help="the bundle that answers: NAME (its newest version), "
                        "NAME/VERSION, a folder, or s3://... (default: SHUTTERLESS_MODEL, else eurosat-lite0)")


def read_settings(*, model: str | None = None, **typed: str | None) -> Settings:
    """Settings of this process. `model` is what --model takes; `typed` are variables by name, None where not typed.

    Raises BadSettings naming every variable that does not fit.
    """
    from shutterless.settings import Settings

    variables = {**read_env_file(Path(".env")), **os.environ}
    variables.update({name: text for name, text in typed.items() if text is not None})
    return Settings.from_environment(variables | choose_model(model))


def choose_model(model: str | None) -> dict[str, str]:
    """The variables that --model stands for: a place, if it looks like one or holds a bundle, else a bundle's name."""
    if model is None:
        return {}
    if model.startswith("s3://"):
        return {"MODEL_URI": model}
    folder = Path(model).expanduser()
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or (folder / "manifest.json").is_file():
        return {"MODEL_URI": str(folder)}
    return {"SHUTTERLESS_MODEL": model, "MODEL_URI": ""}


def bundle_folder(settings: Settings) -> Path:
    """Where the chosen bundle lies. Raises NotFound, naming those that are there."""
    from shutterless.opening import default_folder

    return default_folder(settings)


def read_env_file(path: Path) -> dict[str, str]:
    """Variables of a file of NAME=value lines, quotes around a value taken off; none when there is no such file.

    Raises BadSettings for a file that cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before the first name
    except UnicodeDecodeError:
        raise BadSettings(f"{path}: expected text in UTF-8, got other bytes. Save it again as UTF-8.") from None
    except OSError as error:
        raise BadSettings(f"{path}: expected a file that can be read, got: {error.strerror}. Change its rights.") from None
    lines = (line.strip().removeprefix("export ") for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): _unquoted(value.strip()) for name, _, value in pairs}


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
