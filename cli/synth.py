"""Write the CloudFormation templates of a stage.

It needs no credentials, no network and no Docker.

examples:
  shutterless synth dev
  shutterless synth prod --out build/prod
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The stage, and where the templates go."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("--model", metavar="MODEL", help="the bundle in models/: NAME (its newest version) or NAME/VERSION")
    parser.add_argument("--out", type=Path, default=Path("cdk.out"), metavar="FOLDER", help="default: cdk.out")


def run(arguments: argparse.Namespace) -> int:
    """Synthesize, and say where the templates are."""
    from cli.cdk import run_cdk
    from infra.stages import stage_named

    stage = stage_named(arguments.stage)
    run_cdk("synth", "--quiet", "--output", str(arguments.out.resolve()), stage=stage.name, model=arguments.model)
    for template in sorted(arguments.out.glob("*.template.json")):
        print(template)
    return 0
