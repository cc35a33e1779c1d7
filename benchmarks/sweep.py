"""Which settings suit each server best: tries them, and writes what it tried to its sweep.json and the best to its peer.json.

    python -m benchmarks.sweep                                      # all peers and ours, fp32 and int8: about 10 minutes
    python -m benchmarks.sweep --only ours --bundle resnet50-int8/1

Make the machine quiet first. A `sweep` in peers/NAME/peer.json is a list of stages; each tries a few settings over the best
so far. Best are those that answer the most requests a second of 16 clients. At the end the two best ones run again, in turns,
with a single client too; the medians of these runs decide, and of two that are within 3 %, the one that is faster for a
single client.

Each trial is kept under var/bench/sweep/ as soon as it is over: the same command goes on where it was stopped, and measures
nothing twice for the same bundle, seconds and code, which of a peer is its folder with its lock; --anew forgets what was
measured. Our own best settings are a proposal: they are fixed in the code (ours/README.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.contestants import (
    OURS,
    PEERS,
    ROOT,
    Contestant,
    Expected,
    ask,
    check_answers,
    end_in_peace,
    install,
    ours_to_tune,
    peers,
    running,
)
from benchmarks.load import load, some_pictures
from benchmarks.predict import heading, machine
from benchmarks.servers import LOADED, bundles_by_lot, expected_of, say
from model_export.unfinished import replaced_whole
from shutterless.bundles import Bundle, read_bundle

KEPT = ROOT / "var/bench/sweep"
OUR_CODE = (ROOT / "shutterless", ROOT / "onprem")
SHARED = PEERS / "model.py"  # by all peers
RUN = (".py", ".json", ".txt")  # of a peer's folder
FINALISTS = 2
ALIKE = 0.97
CHECKED = 5  # answers that a trial is checked by; those of the first one are all checked
WARM_UP_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One server at one precision. finals: how often the best settings run again."""

    peer: Contestant
    bundle: Bundle
    pictures: list[bytes]
    seconds: float
    finals: int

    @property
    def precision(self) -> str:
        return self.bundle.manifest.precision

    def length(self) -> int:
        """Trials, finals included, at most."""
        return sum(map(len, self.peer.sweep)) + FINALISTS * self.finals

    def conditions(self) -> dict[str, Any]:
        """What must be the same for two trials to be compared."""
        return {"server": self.peer.name, "model": self.bundle.manifest.name, "sha256": self.bundle.sha256,
                "seconds": self.seconds, "code": code_of(self.peer), "cpu": machine()["cpu"], "cpus": machine()["cpus"]}


def code_of(peer: Contestant) -> str:
    """SHA-256 of what its trials run, whatever their settings: of our server the code, of a peer its folder, less what tells of
    it and of its trials."""
    if peer.name == OURS.name:
        return _digest_of([(str(file.relative_to(folder.parent)), file.read_bytes())
                           for folder in OUR_CODE for file in sorted(folder.rglob("*.py"))])
    files = [file for file in sorted(peer.folder.iterdir())
             if file.suffix in RUN and file.name not in ("peer.json", "sweep.json")]
    described = json.loads((peer.folder / "peer.json").read_text())
    run = {name: value for name, value in described.items() if name not in ("title", "tuned", "sweep")}
    return _digest_of([(f"../{SHARED.name}", SHARED.read_bytes()), *((file.name, file.read_bytes()) for file in files),
                       ("peer.json", json.dumps(run, sort_keys=True).encode())])


def _digest_of(files: Sequence[tuple[str, bytes]]) -> str:
    told = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


class Kept:
    """Trials on the disk, a line each, under the conditions of the first line; other conditions begin anew."""

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        self._path = path
        lines = [line for line in (path.read_text().splitlines() if path.exists() else []) if line.endswith("}")]  # whole ones
        known = lines[1:] if lines and json.loads(lines[0]) == conditions else []
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in (json.dumps(conditions), *known)))
        self.trials: list[dict[str, Any]] = [json.loads(line) for line in known]

    def add(self, trial: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(trial) + "\n")
        self.trials.append(trial)


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep, write, and print the best settings."""
    options = _options(arguments)
    end_in_peace()
    source, pictures = some_pictures(options.pictures)
    bundles = [read_bundle(folder.resolve()) for folder in options.bundle or bundles_by_lot()]
    chosen = [peer for peer in (*peers(), ours_to_tune()) if not options.only or peer.name in options.only]
    for peer in chosen:
        if peer.name != OURS.name:
            install(peer, say)
    sweeps = [Sweep(peer=peer, bundle=bundle, pictures=pictures, seconds=options.seconds, finals=options.finals)
              for peer in chosen for bundle in bundles]
    told = heading("sweep", arguments) | {"pictures": source, "seconds": options.seconds}
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=Console(stderr=True)) as bar:
        task = bar.add_task("sweep", total=sum(each.length() for each in sweeps))
        for done, each in enumerate(sweeps):
            bar.update(task, description=f"{each.peer.title}, {each.precision}", completed=sum(e.length() for e in sweeps[:done]))
            path = KEPT / f"{each.peer.name}-{each.precision}.jsonl"
            if options.anew:
                path.unlink(missing_ok=True)
            conditions = each.conditions()
            trials = sweep(each, Kept(path, conditions), lambda: bar.advance(task))
            write(each.peer, each.precision, trials, told | {"model": conditions["model"], "code": conditions["code"]})
            print(f"{each.peer.title}, {each.precision}: {best_of(trials)}", flush=True)
        bar.update(task, completed=bar.tasks[0].total)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [OURS.name, *(peer.name for peer in peers())]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, nargs="+", metavar="FOLDER", help="one a precision")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SERVER", help=f"these: {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each trial under each load (%(default)s)")
    parser.add_argument("--finals", type=int, default=2, metavar="N", help="rounds of the best ones (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="EuroSAT.zip", help="a zip of JPEGs to ask with")
    parser.add_argument("--anew", action="store_true", help="measure again what was measured before")
    return parser.parse_args(arguments)


def sweep(job: Sweep, kept: Kept, step: Callable[[], object] = lambda: None,
          attempt: Callable[[Sweep, Mapping[str, str], Sequence[Expected], bool], dict[str, Any]] | None = None
          ) -> list[dict[str, Any]]:
    """All trials, in the order in which they ran; those of the finals say so. What `kept` has is not run again."""
    attempt = attempt or attempted
    expected: list[Expected] = []

    def trial(settings: Mapping[str, str], final: int = 0) -> dict[str, Any]:
        step()
        for known in kept.trials:
            if known["settings"] == settings and known.get("final", 0) == final:
                return known
        expected.extend([] if expected else expected_of(job.bundle, job.pictures))
        found = attempt(job, settings, expected if not kept.trials else expected[:CHECKED], bool(final))
        kept.add({**found, **({"final": final} if final else {})})
        return kept.trials[-1]

    trials: list[dict[str, Any]] = []
    base = dict(job.peer.default)
    for stage in job.peer.sweep:
        for settings in laid_over(stage, base):
            if settings not in [each["settings"] for each in trials]:
                trials.append(trial(settings))
        base = max(trials, key=_rate)["settings"]
    finalists = [each["settings"] for each in sorted(trials, key=_rate, reverse=True)[:FINALISTS]]
    return trials + [trial(settings, i + 1) for i in range(job.finals) for settings in finalists]


def laid_over(stage: Sequence[Mapping[str, str]], base: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Each of a stage's settings, with those that it leaves alone."""
    for settings in stage:
        yield {**base, **settings}


def _rate(trial: Mapping[str, Any]) -> float:
    return float(trial["requests_s"])


def attempted(job: Sweep, settings: Mapping[str, str], expected: Sequence[Expected], alone: bool) -> dict[str, Any]:
    """One trial, `alone` with a single client too; its first answers must be those expected. A server that does not come up with
    these settings makes no requests a second, and says why."""
    pictures = job.pictures
    try:
        with running(job.peer, job.bundle.folder, settings, pictures[0]) as server:
            answers = [ask(server.target, picture) for picture in pictures[:len(expected)]]
            check_answers(job.peer.title, answers, expected)
            loads = [load(server.target, pictures, clients=clients, seconds=job.seconds, warm_up_s=WARM_UP_S, pid=server.pid)
                     for clients in ((1, LOADED) if alone else (LOADED,))]
    except SystemExit as problem:
        return {"settings": dict(settings), "requests_s": 0.0, "alone_s": 0.0, "problem": str(problem)[-300:]}
    loaded = loads[-1]
    return {"settings": dict(settings), "requests_s": loaded["requests_s"],
            **({"alone_s": loads[0]["requests_s"]} if alone else {}), "p50_ms": loaded.get("p50_ms"),
            "p99_ms": loaded.get("p99_ms"), "cpu_ms": loaded.get("cpu_ms", {}).get("server"),
            "errors": sum(loaded["errors"].values())}


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
    with replaced_whole(path) as unfinished:
        unfinished.write_text(text + "\n")
    config = peer.folder / "peer.json"
    tuned = dict(peer.tuned) | json.loads(config.read_text())["tuned"] | {precision: best_of(trials)}
    line = json.dumps({name: tuned[name] for name in sorted(tuned)})
    head, _, rest = config.read_text().partition('"tuned": ')
    with replaced_whole(config) as unfinished:
        unfinished.write_text(f'{head}"tuned": {line}{rest[rest.index(chr(10)) - 1:]}')


if __name__ == "__main__":
    raise SystemExit(main())
