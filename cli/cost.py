"""What a stage costs on AWS: a month in which nobody asks, and a million pictures.

Estimated before anything is deployed, from infra/stages.py and the prices in infra/prices.json. Free allowances, taxes and data
that leaves AWS are not counted. Each line shows its quantity, its price and the assumptions that it stands on; below stand all
assumptions with their reasons, and all prices with their month and page.

examples:
  shutterless cost dev
  shutterless cost prod --json | jq .idle_usd
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from cli.tables import print_table

if TYPE_CHECKING:
    from infra.cost import Estimate, Line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `cost` takes."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("--region", metavar="REGION", default="us-east-1", help="whose prices (default: us-east-1)")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def run(arguments: argparse.Namespace) -> int:
    """The tables, or the JSON object."""
    from infra.cost import Estimate
    from infra.prices import prices_of
    from infra.stages import stage_named

    estimate = Estimate(stage_named(arguments.stage), prices_of(arguments.region))
    if arguments.json:
        print(json.dumps(to_json_dict(estimate)))
    else:
        print_estimate(estimate)
    return 0


def sections(estimate: Estimate) -> dict[str, tuple[str, list[Line]]]:
    """Name -> title and lines."""
    return {"idle": ("A month in which nobody asks", estimate.idle()),
            "busy": ("Beside it, a month in which pictures come every hour", estimate.busy()),
            "later": ("A million pictures, answered later (POST /upload-image)", estimate.later()),
            "at_once": ("A million pictures, answered at once (POST /predict)", estimate.at_once())}


def print_estimate(estimate: Estimate) -> None:
    """For people: the result first, then what it is made of."""
    print_totals(estimate)
    for title, lines in sections(estimate).values():
        print(f"\n{title}")
        print_table(("what", "quantity", "price", "dollars", "assumes"),
                    [(line.what, f"{line.quantity:,.6g}" if line.quantity < 1 else f"{line.quantity:,.0f}", line.price,
                      f"{line.usd:,.2f}", ", ".join(line.assumes) or "nothing")
                     for line in sorted(lines, key=lambda line: -line.usd)])
    print("\nAssumed")
    print_table(("what", "value", "why"),
                [(name, f"{one.value:g} {one.unit}", one.reason) for name, one in estimate.assumed.items()])
    print("\nPrices, of infra/prices.json")
    used = {line.of: estimate.prices[line.of] for _, lines in sections(estimate).values() for line in lines}
    print_table(("price", "a", "as of", "from"), [(name, one.per, one.as_of, one.source) for name, one in sorted(used.items())])


def print_totals(estimate: Estimate) -> None:
    """The result, one line each."""
    from infra.cost import total

    prices = estimate.prices
    print(f"Stage {estimate.stage.name}, {prices.region}, prices of {prices.as_of} (infra/prices.json), in US dollars.\n")
    for title, lines in sections(estimate).values():
        print(f"{title + ':':<58}{total(lines):>10,.2f}")


def to_json_dict(estimate: Estimate) -> dict[str, object]:
    """For programs: totals by section, lines, assumptions."""
    from infra.cost import total

    parts = sections(estimate)
    return {"stage": estimate.stage.name, "region": estimate.prices.region, "as_of": estimate.prices.as_of,
            **{f"{name}_usd": round(total(lines), 4) for name, (_, lines) in parts.items()},
            "lines": {name: [line._asdict() for line in lines] for name, (_, lines) in parts.items()},
            "assumed": {name: one._asdict() for name, one in estimate.assumed.items()}}
