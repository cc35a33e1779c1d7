"""Write the CloudFormation templates of a stage.

It needs no credentials, no network and no Docker.

examples:
  shutterless synth dev
  shutterless synth prod --out build/prod
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.cdk import add_source_options, run_cdk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The stage, and where the templates go."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    add_source_options(parser)
    parser.add_argument("--out", type=Path, default=Path("cdk.out"), metavar="FOLDER", help="default: cdk.out")


def run(arguments: argparse.Namespace) -> int:
    """Synthesize, say where the templates are, and what the stage would cost."""
    from cli.cost import print_totals
    from infra.cost import Estimate
    from infra.page import BUILT, SYNTHESIZED, page_of_project
    from infra.prices import USUAL, prices_of
    from infra.stages import stage_named

    stage = stage_named(arguments.stage)
    run_cdk("synth", "--quiet", "--output", str(arguments.out.resolve()), stage=stage.name, model=arguments.model,
            signing_key=arguments.signing_key)
    for template in sorted(arguments.out.glob("*.template.json")):
        print(template)
    print(f"{arguments.out / SYNTHESIZED}: " + (f"the page, from {BUILT}" if page_of_project().is_built else
                                                f"a placeholder, as there is no {BUILT} yet; make deploy refuses it"))
    print()
    print_totals(Estimate(stage, prices_of(USUAL)))
    return 0
