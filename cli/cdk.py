"""CDK's command line, of the version that infra/package-lock.json pins, run in the project's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from infra.sources import ROOT
from shutterless.errors import BadSettings

COMMAND = ROOT / "infra" / "node_modules" / ".bin" / "cdk"


def run_cdk(verb: str, *words: str, stage: str, model: str | None = None) -> None:
    """What it writes goes to standard error. Raises BadSettings when it is missing or fails, which it has told by then."""
    if not COMMAND.is_file():
        raise BadSettings("CDK's command line is not installed. The verbs of the Makefile install it: make synth, make deploy.")
    chosen = ["--context", f"stage={stage}", *(["--context", f"model={model}"] if model else [])]
    here = Path(sys.executable).parent  # where Node is, if a Python wheel brought it
    done = subprocess.run(
        [COMMAND, verb, *words, *chosen, "--app", f"{sys.executable} app.py", "--no-notices"], cwd=ROOT, stdout=sys.stderr,
        check=False, env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}",
                          "PYTHONPATH": str(ROOT), "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1"})
    if done.returncode:
        raise BadSettings(f"cdk {verb} failed. The lines above say why.")
