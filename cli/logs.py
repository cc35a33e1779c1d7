"""What the functions of a deployed stage log, in order of time.

A line of JSON is shortened to what a person reads; errors are red. Ctrl-C ends --follow.

examples:
  shutterless logs dev
  shutterless logs prod --function infer --since 2h
  shutterless logs dev --follow
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cli.tables import printable
from shutterless.errors import BadSettings

if TYPE_CHECKING:
    from infra.tail import Line

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
COLOURS = {"ERROR": "red", "WARNING": "yellow"}
SILENT = ("START RequestId:", "END RequestId:", "INIT_START ")  # of Lambda itself; REPORT says all of it again
FAULT = re.compile(r"Task timed out|Runtime exited|Status: (?:error|timeout)|^\[ERROR\]|Traceback")
REPORTED = re.compile(r"\t((?:Init |Restore )?Duration|Memory Size|Max Memory Used|Status|Error Type): ([^\t]+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stage, which function, since when."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("--function", metavar="NAME", help="this one alone, such as infer (default: all)")
    parser.add_argument("--since", metavar="TIME", type=seconds, default="10m", help="how far back: 30s, 10m (default), 2h, 1d")
    parser.add_argument("--follow", action="store_true", help="go on, with what comes")


def run(arguments: argparse.Namespace) -> int:
    """Find the log groups, print their lines."""
    from infra.deployed import Deployed
    from infra.stages import stage_named
    from infra.tail import Logs, log_groups

    deployed = Deployed(stage_named(arguments.stage).name)
    groups = log_groups(deployed.outputs())
    if arguments.function:
        if arguments.function not in groups:
            raise BadSettings(f"--function: expected one of {', '.join(sorted(groups)) or 'none: deploy the stage again'}, "
                              f"got {arguments.function}.")
        groups = {arguments.function: groups[arguments.function]}
    logs, from_ms = Logs(deployed, groups), round(1000 * (time.time() - arguments.since))
    for line in logs.follow(from_ms) if arguments.follow else logs.since(from_ms):
        tell(line)
    return 0


def seconds(text: str) -> int:
    """10m -> 600."""
    if not (found := re.fullmatch(r"([0-9]{1,6})([smhd])", text)):
        raise argparse.ArgumentTypeError(f"expected a time like 30s, 10m, 2h or 1d, got {text!r}")
    return int(found[1]) * UNITS_S[found[2]]


def tell(line: Line) -> None:
    """One line for people; what stands in several lines, like a trace, below it."""
    from rich.console import Console
    from rich.text import Text

    if line.text.startswith(SILENT):
        return
    level, text = readable(line.text)
    moment = datetime.fromtimestamp(line.at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    shown = Text.assemble((f"{moment}  {line.function:8}", "dim"), (printable(text), COLOURS.get(level, "")))
    Console(soft_wrap=True, highlight=False).print(shown)
    sys.stdout.flush()


def readable(text: str) -> tuple[str, str]:
    """Level, and what is to be read."""
    text = text.strip()
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    if isinstance(entry, dict):
        return str(entry.get("level", "ERROR" if _is_5xx(entry) else "INFO")), _shortened(entry)
    level = "ERROR" if FAULT.search(text) else "WARNING" if "[WARNING]" in text else "INFO"
    if text.startswith("REPORT RequestId:"):
        return level, "  ".join(["REPORT", *(f"{name} {value}" for name, value in REPORTED.findall(text))])
    return level, text


def _is_5xx(entry: dict[str, Any]) -> bool:
    status = entry.get("status")
    return isinstance(status, int) and status >= 500


def _shortened(entry: dict[str, Any]) -> str:
    """What CloudWatch counts from is left out, and so is what stands in every line; units stand behind their numbers."""
    units = _units(entry.get("_aws"))
    left = {name: value for name, value in entry.items() if name not in ("_aws", "Function", "Stage", "level", "trace")}
    words = [f"{name}={_value(value)}{units.get(name, '')}" for name, value in left.items() if value is not None]
    level, trace = entry.get("level", "INFO"), str(entry.get("trace") or "").rstrip()
    return " ".join([*([str(level)] if level != "INFO" else []), *words]) + (f"\n{trace}" if trace else "")


def _units(directives: Any) -> dict[str, str]:
    """Name -> "ms" for all that is measured in milliseconds; {} where the line is not ours."""
    try:
        return {metric["Name"]: "ms" for directive in directives["CloudWatchMetrics"] for metric in directive["Metrics"]
                if metric.get("Unit") == "Milliseconds"}
    except (KeyError, TypeError, AttributeError):
        return {}


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value, ensure_ascii=False)
