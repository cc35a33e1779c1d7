"""Name what is in pictures.

A table for people; --json prints one object a line, in the order of the pictures: `file` and the fields of POST
/predict, or `file` and `error` (a problem, as in RFC 9457). Takes JPEG, PNG, WebP, GIF, BMP and TIFF. A picture that
cannot be read gives its reason, and exit code 1 after all others were answered.

examples:
  shutterless predict tile.jpg
  shutterless predict --top 3 tile.jpg more-tiles/
  shutterless predict --json pictures/ > answers.jsonl
  curl -s https://example.org/tile.jpg | shutterless predict -
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from cli.environment import add_model_option, read_settings
from cli.progress import progress
from cli.tables import print_table
from shutterless.errors import BadPicture, NotFound

if TYPE_CHECKING:
    from cli.sources import Source
    from shutterless.classifier import Classifier
    from shutterless.pictures import Limits
    from shutterless.settings import Settings

Answer = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `predict` takes."""
    parser.add_argument("pictures", nargs="+", metavar="PICTURE",
                        help="a file, a folder (its pictures, recursively), or - for the bytes on standard input")
    add_model_option(parser)
    parser.add_argument("--top", type=int, metavar="N",
                        help="how many labels to give of each (default: 1; with --json 5, as POST /predict)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Answer every picture; 1 when there was one that could not be."""
    from cli.sources import find_sources
    from shutterless.classifier import TOP, Classifier
    from shutterless.opening import default_bundle

    settings = read_settings(model=arguments.model)
    classifier = Classifier(default_bundle(settings), threads=settings.threads or 1)
    streams = arguments.json and sys.stdout.isatty()  # a bar would cut through the lines
    sources = find_sources(arguments.pictures, settings.max_bytes)
    top = arguments.top if arguments.top is not None else TOP if arguments.json else 1
    answers = predict_all(sources, classifier, settings, top=top, bar=not streams)
    with closing(answers):
        return print_lines(answers) if arguments.json else print_answers(list(answers))


def predict_all(sources: Sequence[Source], classifier: Classifier, settings: Settings, *, top: int,
                bar: bool = False) -> Generator[Answer]:
    """One answer for each source, in order: `file` and the fields of /predict, or `file` and `error`."""
    from concurrent.futures import ThreadPoolExecutor

    from shutterless.pictures import Limits

    limits = Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels, max_side=settings.max_side)
    pool = ThreadPoolExecutor(settings.workers)
    try:
        answers = pool.map(lambda source: predict_one(source, classifier, limits, top), sources)
        yield from progress(answers, total=len(sources), of="pictures") if bar else answers
    finally:
        pool.shutdown(cancel_futures=True)  # who stops listening, or presses Ctrl-C, does not wait for the rest


def predict_one(source: Source, classifier: Classifier, limits: Limits, top: int) -> Answer:
    """One line of --json. Raises BadRequest for `top`, BadBundle for a model that answers with nonsense."""
    from shutterless.problems import problem

    try:
        picture = source.read(limits.max_bytes)
        return {"file": source.name, **classifier.predict(picture, top=top, limits=limits).to_json_dict()}
    except (BadPicture, NotFound) as error:
        return {"file": source.name, "error": {**problem(error, request_id=""), "request_id": None}}


def print_lines(answers: Iterable[Answer]) -> int:
    """Each answer as soon as it is there."""
    failed = False
    for answer in answers:
        print(json.dumps(answer), flush=True)
        failed |= "error" in answer
    return int(failed)


def print_answers(answers: Sequence[Answer]) -> int:
    """Answers as a table on standard output, reasons on standard error."""
    failed = [answer for answer in answers if "error" in answer]
    if len(failed) < len(answers):
        print_table(("picture", "label", "confidence", "or else", "note"), [
            (answer["file"], answer["label"], percent(answer["confidence"]), runners_up(answer), note(answer))
            for answer in answers if "error" not in answer])
    for answer in failed:
        print(f"{answer['file']}: {answer['error']['detail']}", file=sys.stderr)
    return int(bool(failed))


def runners_up(answer: Answer) -> str:
    """`Pasture 1.20 %, River 0.30 %`; empty with --top 1."""
    return ", ".join(f"{ranked['label']} {percent(ranked['confidence'])}" for ranked in answer["top"][1:])


def note(answer: Answer) -> str:
    """A warning where the picture is unlike what the model learned from."""
    return "unlike what the model learned from" if answer["in_distribution"] is False else ""


def percent(confidence: float) -> str:
    """`98.77 %`."""
    return f"{confidence:.2%}".replace("%", " %")
