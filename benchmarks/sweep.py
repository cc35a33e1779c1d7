"""Which settings suit each peer best: tries them, and writes what it tried to peers/NAME/sweep.json and the best to peer.json.

    python -m benchmarks.sweep --bundle resnet50-fp32/1 resnet50-int8/1           # all peers: 35 minutes on a quiet machine
    python -m benchmarks.sweep --only bentoml --bundle resnet50-int8/1

A peer's `sweep` is a list of stages; a stage is a grid, laid over the best settings so far. Best are those that answer the most
requests a second of 16 clients. At the end the three best ones run again, in interleaved rounds, and their medians decide; of
those within 3 % of the fastest, the one that is fastest for a single client.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Expected, ask, check_answers, end_in_peace, install, peers, running
from benchmarks.load import load, some_pictures
from benchmarks.predict import heading
from benchmarks.servers import LOADED, bundles_by_lot, expected_of, say
from shutterless.bundles import Bundle, read_bundle

FINALISTS = 3
ALIKE = 0.97


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep, write, and print the best settings."""
    options = _options(arguments)
    end_in_peace()
    source, pictures = some_pictures(options.pictures)
    bundles = [read_bundle(folder.resolve()) for folder in options.bundle or bundles_by_lot()]
    for peer in peers():
        if options.only and peer.name not in options.only:
            continue
        install(peer, say)
        for bundle in bundles:
            trials = sweep(peer, bundle, pictures, options.seconds, options.finals)
            write(peer, bundle.manifest.precision, trials,
                  heading("sweep", arguments) | {"pictures": source, "seconds": options.seconds, "model": bundle.manifest.name})
            print(f"{peer.title}, {bundle.manifest.precision}: {best_of(trials)}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, nargs="+", metavar="FOLDER", help="one a precision")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in peers()], metavar="PEER")
    parser.add_argument("--seconds", type=float, default=2, help="of each trial under each load (%(default)s)")
    parser.add_argument("--finals", type=int, default=3, metavar="N", help="rounds of the best ones (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="EuroSAT.zip", help="a zip of JPEGs to ask with")
    return parser.parse_args(arguments)


def combinations(stage: Mapping[str, Sequence[str]], base: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Every combination of a stage's values, over the settings that it leaves alone."""
    for values in itertools.product(*stage.values()):
        yield {**base, **dict(zip(stage, values, strict=True))}


def sweep(peer: Contestant, bundle: Bundle, pictures: list[bytes], seconds: float, finals: int) -> list[dict[str, Any]]:
    """All trials, in the order in which they ran; those of the finals say so."""
    expected = expected_of(bundle, pictures)
    trials: list[dict[str, Any]] = []
    base = dict(peer.default)
    for stage in peer.sweep:
        for settings in combinations(stage, base):
            if settings not in [trial["settings"] for trial in trials]:
                trials.append(attempt(peer, bundle, settings, pictures, expected, seconds))
        base = max(trials, key=_rate)["settings"]
    finalists = [trial["settings"] for trial in sorted(trials, key=_rate, reverse=True)[:FINALISTS]]
    return trials + [{**attempt(peer, bundle, settings, pictures, expected, seconds), "final": i + 1}
                     for i in range(finals) for settings in finalists]


def _rate(trial: Mapping[str, Any]) -> float:
    return float(trial["requests_s"])


def attempt(peer: Contestant, bundle: Bundle, settings: dict[str, str], pictures: list[bytes],
            expected: list[Expected], seconds: float) -> dict[str, Any]:
    """One trial; a server that does not come up with these settings makes no requests a second, and says why."""
    try:
        with running(peer, bundle.folder, settings, pictures[0]) as server:
            check_answers(peer.title, [ask(server.target, picture) for picture in pictures], expected)
            alone, loaded = (load(server.target, pictures, clients=clients, seconds=seconds, warm_up_s=seconds / 2,
                                  pid=server.pid) for clients in (1, LOADED))
    except SystemExit as problem:
        return {"settings": settings, "requests_s": 0.0, "alone_s": 0.0, "problem": str(problem)[:300]}
    found = {"settings": settings, "requests_s": loaded["requests_s"], "alone_s": alone["requests_s"],
             "p50_ms": loaded.get("p50_ms"), "p99_ms": loaded.get("p99_ms"),
             "cpu_ms": loaded.get("cpu_ms", {}).get("server"), "errors": sum(loaded["errors"].values())}
    say(f"{peer.title}, {bundle.manifest.precision}: {found['requests_s']:.1f}/s, alone {found['alone_s']:.1f}/s {settings}")
    return found


def best_of(trials: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The settings that won the finals."""
    medians: list[tuple[float, float, dict[str, str]]] = []
    finals = [trial for trial in trials if "final" in trial]
    for settings in [trial["settings"] for trial in finals if trial["final"] == 1]:
        same = [trial for trial in finals if trial["settings"] == settings]
        rate, alone = (statistics.median(trial[key] for trial in same) for key in ("requests_s", "alone_s"))
        medians.append((rate, alone, settings))
    fastest = max(rate for rate, _, _ in medians)
    return max((each for each in medians if each[0] >= ALIKE * fastest), key=lambda each: each[1])[2]


def write(peer: Contestant, precision: str, trials: list[dict[str, Any]], conditions: dict[str, Any]) -> None:
    """Into the peer's folder; the other precision's stays."""
    path = peer.folder / "sweep.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[precision] = {**conditions, "trials": trials}
    rows = {name: {**found, "trials": []} for name, found in sorted(known.items())}
    text = json.dumps(rows, indent=1)
    for name in sorted(known):  # a trial a line
        lines = ",\n".join(f"   {json.dumps(trial)}" for trial in known[name]["trials"])
        text = text.replace('"trials": []', f'"trials": [\n{lines}\n  ]', 1)
    path.write_text(text + "\n")
    config = peer.folder / "peer.json"
    tuned = dict(replace(peer).tuned) | json.loads(config.read_text())["tuned"] | {precision: best_of(trials)}
    line = json.dumps({name: tuned[name] for name in sorted(tuned)})
    head, _, rest = config.read_text().partition('"tuned": ')
    config.write_text(f'{head}"tuned": {line}{rest[rest.index(chr(10)) - 1:]}')


if __name__ == "__main__":
    raise SystemExit(main())
