"""Ask a deployed stage's database, which no laptop reaches: one SELECT, answered as a table.

The query runs in the function migrate, inside the network, as a user that may read the table results and nothing else. It is
ended after 20 s, and stands in the function's log. Without a query, it reads standard input: a file, or lines at a prompt.

examples:
  shutterless psql dev "select status, count(*) from results group by status"
  shutterless psql prod --csv "select * from results where status = 'stalled'" > stalled.csv
  shutterless psql dev
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from cli.tables import print_table
from shutterless.errors import BadRequest, ShutterlessError

if TYPE_CHECKING:
    from infra.deployed import Deployed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stage, what to ask, how to answer."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="one statement of SQL that reads (default: standard input)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a row, for programs")
    form.add_argument("--csv", action="store_true", help="CSV with a line of names")
    parse = parser.parse_known_args

    def options_first(words: Any = None, namespace: Any = None) -> Any:
        """Before Python 3.13, argparse takes no optional word that stands behind an option."""
        return parse(sorted(words, key=lambda word: word not in ("--json", "--csv")), namespace)

    parser.parse_known_args = options_first  # type: ignore[method-assign, assignment]


def run(arguments: argparse.Namespace) -> int:
    """Answer the query, or each line of who types."""
    from infra.deployed import Deployed
    from infra.stages import stage_named

    stage = stage_named(arguments.stage).name
    deployed = Deployed(stage)
    outputs = deployed.outputs()
    if "MigrateFunction" not in outputs:
        raise BadRequest(f"Expected a stage with its functions, got one without. Deploy it: make deploy STAGE={stage}.")
    function, form = outputs["MigrateFunction"], "json" if arguments.json else "csv" if arguments.csv else "table"
    if arguments.query is None and sys.stdin.isatty():
        return converse(deployed, function, form)
    show(ask(deployed, function, arguments.query if arguments.query is not None else sys.stdin.read()), form)
    return 0


def converse(deployed: Deployed, function: str, form: str) -> int:
    """A prompt, until Ctrl-D or \\q. A query that fails is told, and the next one may come."""
    while True:
        try:
            query = input(f"{deployed.name}=> ").strip()
        except EOFError:
            print()
            return 0
        if query in ("\\q", "exit", "quit"):
            return 0
        if not query:
            continue
        try:
            show(ask(deployed, function, query), form)
        except ShutterlessError as error:
            print(error, file=sys.stderr)


def ask(deployed: Deployed, function: str, query: str) -> dict[str, Any]:
    """{columns, rows, is_cut}. Raises BadRequest with the function's words."""
    answer = deployed.invoke(function, {"query": query})
    if "error" in answer:
        raise BadRequest(str(answer["error"]))
    if "columns" not in answer:
        raise BadRequest("The function in this stage does not know how to answer a query: it is older than this command. Deploy "
                         f"the stage again: make deploy STAGE={deployed.name}.")
    return answer


def show(answer: dict[str, Any], form: str) -> None:
    """Print it, and say on standard error when there was more."""
    columns, rows = answer["columns"], answer["rows"]
    if form == "json":
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([columns, *([_text(value) for value in row] for row in rows)])
    else:
        print_table(columns, [["NULL" if value is None else _text(value) for value in row] for row in rows])
        print(f"({len(rows):,} row{'s' * (len(rows) != 1)})")
    if answer["is_cut"]:
        print(f"Only the first {len(rows):,} rows: more do not fit into an answer. Ask for fewer, or page with where id < ....",
              file=sys.stderr)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
