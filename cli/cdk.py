"""CDK's command line, of the version that infra/package-lock.json pins, run in the project's folder."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from infra.sources import ROOT, pem_of_project
from shutterless.errors import BadSettings

COMMAND = ROOT / "infra" / "node_modules" / ".bin" / "cdk"


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """What goes into the functions' images, for commands that synthesize."""
    parser.add_argument("--model", metavar="MODEL", help="the bundle in models/: NAME (its newest version) or NAME/VERSION")
    parser.add_argument("--signing-key", type=Path, metavar="FILE",
                        help="the public key with which every bundle must be signed; a .pem file of this folder")


def run_cdk(verb: str, *words: str, stage: str, model: str | None = None, signing_key: Path | None = None,
            log_role: str | None = None) -> None:
    """What it writes goes to standard error. Raises BadSettings when it is missing or fails, which it has told by then."""
    context = {"stage": stage, "model": model, "signing_key": pem_of_project("--signing-key", signing_key), "log_role": log_role}
    if not COMMAND.is_file():
        raise BadSettings("CDK's command line is not installed. The verbs of the Makefile install it: make synth, make deploy.")
    chosen = [word for name, value in context.items() if value for word in ("--context", f"{name}={value}")]
    here = Path(sys.executable).parent  # where Node is, if a Python wheel brought it
    done = subprocess.run(
        [COMMAND, verb, *words, *chosen, "--app", f"{sys.executable} app.py", "--no-notices"], cwd=ROOT, stdout=sys.stderr,
        check=False, env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}",
                          "PYTHONPATH": str(ROOT), "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1"})
    if done.returncode:
        raise BadSettings(f"cdk {verb} failed. The lines above say why.")
