"""Take a stage away from your AWS account.

All that it stored goes, too; a stage that keeps data wants its name said twice, and then says what stays.

examples:
  shutterless destroy dev
  shutterless destroy prod --confirm prod
"""

from __future__ import annotations

import argparse
import sys

from shutterless.errors import BadSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stage."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("--confirm", metavar="STAGE", help="the name again, for a stage that keeps data")


def run(arguments: argparse.Namespace) -> int:
    """Empty what must be empty, delete the stacks in the order in which they stand on each other, say what stays."""
    from infra.deployed import Deployed
    from infra.stages import stage_named

    stage = stage_named(arguments.stage)
    if stage.keeps_data and arguments.confirm != stage.name:
        raise BadSettings(f"{stage.name} keeps data: what its users stored cannot be brought back by another deploy. To take it "
                          f"away all the same: make destroy STAGE={stage.name} CONFIRM={stage.name}.")
    left = Deployed(stage.name).destroy(keeps_data=stage.keeps_data, say=lambda line: print(line, file=sys.stderr))
    print("\n".join([f"{stage.name} is gone. What stays:", *(f"  {line}" for line in left)]) if left
          else f"{stage.name} is gone, and nothing of it stays.")
    return 0
