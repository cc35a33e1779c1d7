"""What AWS asks for its services: prices.json, by region, with the date and the page that each number is from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shutterless.errors import NotFound

TABLE = Path(__file__).with_name("prices.json")
USUAL = "us-east-1"


class Price(NamedTuple):
    """In US dollars, per a unit such as GB-second, as the page `source` had it in the month `as_of`."""

    usd: float
    per: str
    as_of: str
    source: str


@dataclass(frozen=True)
class Prices:
    """Those of a region."""

    region: str
    by_name: Mapping[str, Price]

    @property
    def as_of(self) -> str:
        """The month of the oldest."""
        return min(price.as_of for price in self.by_name.values())

    def __getitem__(self, name: str) -> Price:
        if name not in self.by_name:
            raise NotFound(f"infra/prices.json has no price of {name} in {self.region}. Add it there, with its source.")
        return self.by_name[name]


def prices_of(region: str) -> Prices:
    """Raises NotFound for a region that the table does not know."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    if region not in table["regions"]:
        raise NotFound(f"Expected a region that infra/prices.json knows ({', '.join(table['regions'])}), got {region}. "
                       "Add its prices there, with their source.")
    return Prices(region, {name: Price(**price) for name, price in table["regions"][region].items()})
