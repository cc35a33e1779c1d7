"""Send pictures to a server and write its answers to a CSV file.

Several are under way at the same time; a server that is busy (429, 503, Retry-After) is waited for. The CSV has a row as soon as
a picture is answered: sent again, only those without an answer are asked for, so an interrupted run goes on where it stopped.
Where a picture's folder is called like one of the model's labels, that is its true label, and accuracy is printed at the end. The
server's key is the first of SHUTTERLESS_API_KEYS.

examples:
  shutterless send tiles/ --to http://localhost:8000
  shutterless send tiles/ --to https://abc.execute-api.eu-central-1.amazonaws.com/dev --clients 32 --out answers.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.environment import read_settings
from cli.progress import progress
from cli.tables import print_table
from shutterless.errors import BadPicture, BadRequest, NotFound

if TYPE_CHECKING:
    from cli.remote import Remote
    from cli.sources import Source

COLUMNS = ("file", "true_label", "label", "confidence", "in_distribution", "model", "inference_ms", "error")
MAX_CLIENTS = 256
Row = dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `send` takes."""
    parser.add_argument("pictures", nargs="+", metavar="FOLDER", help="folders (their pictures, recursively) or files")
    parser.add_argument("--to", required=True, metavar="URL", help="the server: what stands before /predict")
    parser.add_argument("--model", metavar="MODEL", help="one of the server's: NAME or NAME/VERSION (default: its own choice)")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="pictures under way at the same time (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("answers.csv"), metavar="FILE.csv",
                        help="where the answers go; those that it holds already are not asked for again (default: answers.csv)")


def run(arguments: argparse.Namespace) -> int:
    """Send what has no answer yet; 1 when a picture got none."""
    from cli.remote import Remote
    from cli.sources import find_sources

    if not 1 <= arguments.clients <= MAX_CLIENTS:
        raise BadRequest(f"--clients: expected a number from 1 to {MAX_CLIENTS}, got {arguments.clients}. Give another.")
    settings = read_settings()
    sources = list({source.name: source for source in find_sources(arguments.pictures, settings.max_bytes)}.values())
    answered = read_answers(arguments.out)
    rest = [source for source in sources if source.name not in answered]
    with closing(Remote(arguments.to, next(iter(settings.api_keys), ""))) as remote:
        labels = labels_of(remote.models(), arguments.model)
        with answer_file(arguments.out, answered.values()) as write, closing(
                send_all(rest, remote, labels, arguments.model, arguments.clients, settings.max_bytes)) as rows:
            for row in progress(rows, total=len(rest), of="pictures"):
                write(row)
                answered[row["file"]] = row
    return report([answered[source.name] for source in sources], len(sources) - len(rest), arguments.out)


def labels_of(models: Iterable[dict[str, Any]], wanted: str | None) -> set[str]:
    """The labels of the model that will answer; none where the server does not tell them."""
    for model in models:
        if model.get("default") if wanted is None else wanted in (model["name"], f"{model['name']}/{model['version']}"):
            return set(model.get("labels") or ())
    return set()


def send_all(sources: Sequence[Source], remote: Remote, labels: set[str], model: str | None, clients: int,
             max_bytes: int) -> Generator[Row]:
    """A row for each source, in the order of the answers. Raises Refused and Unavailable, which concern them all."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    query = {"model": model} if model else {}
    pool = ThreadPoolExecutor(clients)
    try:
        for done in as_completed([pool.submit(send_one, source, remote, labels, query, max_bytes) for source in sources]):
            yield done.result()
    finally:
        remote.close()
        pool.shutdown(cancel_futures=True)


def send_one(source: Source, remote: Remote, labels: set[str], query: dict[str, str], max_bytes: int) -> Row:
    """The row of one picture. Raises Refused, Unavailable."""
    folder = Path(source.name).absolute().parent.name
    row = dict.fromkeys(COLUMNS, "") | {"file": source.name, "true_label": folder if folder in labels else ""}
    try:
        picture = source.read(max_bytes)
        if len(picture) > max_bytes:
            raise BadPicture(f"Expected a picture of at most {max_bytes:,} bytes, got more. Save it smaller.")
        answer = remote.predict(picture, **query)
    except (BadPicture, NotFound) as error:
        return row | {"error": str(error)}
    return row | {"label": str(answer["label"]), "confidence": f"{answer['confidence']:.6f}",
                  "in_distribution": "" if answer.get("in_distribution") is None else str(answer["in_distribution"]).lower(),
                  "model": f"{answer['model']['name']}/{answer['model']['version']}",
                  "inference_ms": f"{1000 * answer['timings']['inference_s']:.2f}"}


def read_answers(path: Path) -> dict[str, Row]:
    """Rows with an answer, by file; a last row that was cut off is none. Raises BadRequest for a file that is not of `send`."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is not None and tuple(rows.fieldnames) != COLUMNS:
            raise BadRequest(f"--out: expected a file that `shutterless send` wrote, got {path.name} with other columns. "
                             "Give another name.")
        return {row["file"]: row for row in rows if row["label"] and None not in row.values()}


@contextmanager
def answer_file(path: Path, kept: Iterable[Row]) -> Iterator[Any]:
    """A function that adds a row to the CSV, which is in the file when it returns; `kept` stand in it already. The file is
    replaced as a whole, so that no moment is without them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.part")
    with fresh.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        rows.writerows(kept)
        file.flush()
        os.fsync(file.fileno())
        fresh.replace(path)

        def write(row: Row) -> None:
            rows.writerow(row)
            file.flush()
        yield write


def report(rows: Sequence[Row], before: int, path: Path) -> int:
    """What came of the pictures: accuracy where true labels are known, else how often each label was given; what failed on
    standard error."""
    good, failed = [row for row in rows if row["label"]], [row for row in rows if not row["label"]]
    known = [row for row in good if row["true_label"]]
    print(f"{len(good):,} answers in {path}" + (f", {before:,} of them from before" if before else ""))
    if known:
        print_accuracy(known)
    elif good:
        print_table(("label", "n"), [(label, f"{n:,}") for label, n in Counter(row["label"] for row in good).most_common()])
    for row in failed:
        print(f"{row['file']}: {row['error']}", file=sys.stderr)
    return int(bool(failed))


def print_accuracy(rows: Sequence[Row]) -> None:
    """Of all, with its 95 % interval, and of each true label."""
    from model_export.metrics import share

    right = Counter(row["true_label"] for row in rows if row["label"] == row["true_label"])
    whole = share(right.total(), len(rows))
    print(f"accuracy {whole.value:.2%} (95 % interval {whole.low:.2%} to {whole.high:.2%}, {whole.n:,} pictures)")
    counts = Counter(row["true_label"] for row in rows)
    print_table(("true label", "n", "right"),
                [(label, f"{n:,}", f"{right[label] / n:.2%}") for label, n in sorted(counts.items())])
