"""Our server under load beside others: FastAPI written by hand, BentoML, LitServe and MLServer, all on onnxruntime.

    python -m benchmarks.servers                                             # about 10 minutes; --full takes an hour
    python -m benchmarks.servers --bundle models/roofs/1 --only bentoml --rounds 1

All answer the same pictures with the same portable graph (ours with the bundle as it is), the same preprocessing and the same
fields; each peer runs with the settings that benchmarks.sweep found best at that precision (peers/NAME/peer.json). Before it is
timed, each has to name 50 pictures as our core does. Rounds are interleaved: every server is started, asked by each number of
clients and ended, then the next one has its turn, so that all meet the same noise; figures are medians over rounds, ratios are
medians of each round's ratio. What is measured while a hypervisor takes the CPUs away is measured again. In the same rounds
`session.run` is measured alone, with pictures that are decoded already, a batch on each CPU: the ceiling.

Without --bundle and --model, the bundles are ResNet50 at 64 px as fp32 and int8, weights drawn by lot (time does not depend on
them), which needs `make install-export` once. Make the machine quiet first: nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import OURS, Contestant, Expected, ask, check_answers, end_in_peace, install, peers, running
from benchmarks.load import load, some_pictures
from benchmarks.predict import heading, machine
from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.classifier import Classifier
from shutterless.errors import ShutterlessError
from shutterless.settings import Settings, usable_cpus

ROOT = Path(__file__).parent.parent
PLOT = ROOT / "var/bench/servers.png"
BUNDLES, SIDE = ROOT / "var/bench/servers", 64
CEILING_BATCHES = (8, 16, 32)
GOALS = {"fp32": 1.25, "int8": 1.6}  # times the best peer's requests a second, under the largest load of the short form
LOADED = 16  # clients
QUIET = 0.25  # of each CPU may be busy
STOLEN, TRIES = 0.05, 4  # of the CPUs' time may go to the hypervisor's other machines; else it is measured again


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure: `seconds` of each number of clients, in `rounds` rounds."""

    clients: tuple[int, ...]
    seconds: float
    warm_up_s: float
    rounds: int


SHORT = Plan(clients=(1, LOADED), seconds=2, warm_up_s=0.7, rounds=6)
FULL = Plan(clients=(1, LOADED, 256), seconds=10, warm_up_s=3, rounds=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both forms of the report, and draw it."""
    options = _options(arguments)
    end_in_peace()
    plan, where = _plan(options), machine()
    source, pictures = some_pictures(options.pictures)
    try:
        bundles = [read_bundle(folder, every_file=True) for folder in _folders(options)]
    except ShutterlessError as error:
        raise SystemExit(str(error)) from None
    chosen = [OURS, *(peer for peer in peers() if not options.only or peer.name in options.only)]
    for peer in chosen[1:]:
        install(peer, say)
    rounds = [row for i in range(plan.rounds) for bundle in bundles for row in one_round(i, bundle, chosen, pictures, plan)]
    report = heading("servers", arguments) | {
              "machine": where, "pictures": source, "plan": vars(plan), "cpus": usable_cpus(),
              "models": [model_of(bundle) for bundle in bundles],
              "settings": {f"{peer.name} {bundle.manifest.precision}": peer.settings(bundle.manifest.precision)
                           for peer in chosen[1:] for bundle in bundles},
              "untuned": [f"{peer.title} at {bundle.manifest.precision}" for peer in chosen[1:] for bundle in bundles
                          if bundle.manifest.precision not in peer.tuned],
              "results": summary(rounds, usable_cpus())}
    for line in table(report):
        print(line)
    draw(report, options.out)
    print(f"plot: {options.out}")
    print(json.dumps(report))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, nargs="+", metavar="FOLDER", help="bundles to serve, one a precision")
    parser.add_argument("--model", help="a bundle in models/, as NAME or NAME/VERSION")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in peers()], metavar="PEER",
                        help=f"these peers: {', '.join(peer.name for peer in peers())}")
    parser.add_argument("--full", action="store_true", help="256 clients too, longer and more rounds")
    parser.add_argument("--clients", type=int, nargs="+", metavar="N")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each number of clients")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--pictures", type=Path, metavar="EuroSAT.zip", help="a zip of JPEGs to ask with")
    parser.add_argument("--out", type=Path, default=PLOT, metavar="FILE.png|FILE.svg", help="where the plot goes (%(default)s)")
    return parser.parse_args(arguments)


def _plan(options: argparse.Namespace) -> Plan:
    plan = FULL if options.full else SHORT
    return Plan(clients=tuple(options.clients or plan.clients), seconds=options.seconds or plan.seconds,
                warm_up_s=plan.warm_up_s, rounds=options.rounds or plan.rounds)


def _folders(options: argparse.Namespace) -> list[Path]:
    """Of the bundles that the options ask for, made if they are ours by lot."""
    if options.bundle:
        return [folder.resolve() for folder in options.bundle]
    if options.model:
        return [find_bundle(options.model, Settings.from_environment(os.environ).models_dir).resolve()]
    return bundles_by_lot()


def bundles_by_lot() -> list[Path]:
    """ResNet50 at 64 px, as fp32 and int8; made once."""
    from benchmarks.cold import make_bundles

    say("ResNet50 by lot")
    make_bundles(BUNDLES, SIDE)
    return [BUNDLES / f"resnet50-{precision}/1" for precision in ("fp32", "int8")]


def say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


def model_of(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "precision": manifest.precision, "sha256": bundle.sha256}


def expected_of(bundle: Bundle, pictures: Iterable[bytes]) -> list[Expected]:
    """What our core answers to each picture."""
    classifier = Classifier(bundle)
    answers = [classifier.predict(picture).prediction for picture in pictures]
    return [(answer.pred_index, answer.label, answer.confidence) for answer in answers]


def one_round(number: int, bundle: Bundle, chosen: list[Contestant], pictures: list[bytes], plan: Plan,
              step: Callable[[str], object] = say) -> Iterator[dict[str, Any]]:
    """A row for each server and number of clients, and one for the ceiling."""
    precision = bundle.manifest.precision
    expected = expected_of(bundle, pictures)
    for contestant in chosen:
        step(f"round {number + 1} of {plan.rounds}, {precision}: {contestant.title}")
        with running(contestant, bundle.folder, contestant.settings(precision), pictures[0]) as server:
            check_answers(contestant.title, [ask(server.target, picture) for picture in pictures], expected)
            for clients in plan.clients:
                found = undisturbed(partial(load, server.target, pictures, clients=clients, seconds=plan.seconds,
                                            warm_up_s=plan.warm_up_s, pid=server.pid))
                yield {"round": number, "precision": precision, "server": contestant.name, "title": contestant.title,
                       "ready_s": round(server.ready_s, 3), **found}
    step(f"round {number + 1} of {plan.rounds}, {precision}: session.run alone")
    yield {"round": number, "precision": precision, "server": "ceiling", **ceiling(bundle, pictures, plan.seconds)}


def undisturbed(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured while at most STOLEN is stolen, or the least disturbed of TRIES, whoever's figures they are."""
    found: list[dict[str, Any]] = []
    while len(found) < TRIES:
        found.append(measure())
        if found[-1].get("stolen", 0.0) <= STOLEN:
            return found[-1]
    return min(found, key=lambda one: float(one["stolen"]))


def ceiling(bundle: Bundle, pictures: list[bytes], seconds: float) -> dict[str, Any]:
    """Pictures a second of `session.run`, a batch of the best size on each CPU; milliseconds of CPU that a picture costs there,
    and that decoding and resizing it costs."""
    classifier = Classifier(bundle)
    started, decoded = time.process_time(), 0
    until = time.perf_counter() + seconds / 4
    while time.perf_counter() < until:
        classifier.pixels(pictures[decoded % len(pictures)])
        decoded += 1
    decode_ms = 1000 * (time.process_time() - started) / decoded
    pixels = np.stack([classifier.pixels(picture) for picture in pictures])
    runs = [_runs(classifier, np.resize(pixels, (batch, *pixels.shape[1:])), seconds / 4) for batch in CEILING_BATCHES]
    best = max(runs, key=lambda run: float(run["requests_s"]))
    return {**best, "decode_cpu_ms": round(decode_ms, 4)}


def _runs(classifier: Classifier, pixels: Any, seconds: float) -> dict[str, Any]:
    classifier.classify(pixels)
    started, spent_s = time.perf_counter(), -time.process_time()

    def run_until_over(_: int) -> int:
        count = 0
        while time.perf_counter() - started < seconds:
            classifier.classify(pixels)
            count += len(pixels)
        return count

    with ThreadPoolExecutor(usable_cpus()) as cpus:
        count = sum(cpus.map(run_until_over, range(usable_cpus())))
    taken_s, spent_s = time.perf_counter() - started, spent_s + time.process_time()
    return {"batch": len(pixels), "requests_s": round(count / taken_s, 2), "run_cpu_ms": round(1000 * spent_s / count, 4)}


def summary(rounds: list[dict[str, Any]], cpus: int) -> dict[str, Any]:
    """precision -> {"ceiling", "servers": a row for each server and number of clients, "best_peer": clients -> name, "split"}."""
    found: dict[str, Any] = {}
    for precision in dict.fromkeys(row["precision"] for row in rounds):
        rows = [row for row in rounds if row["precision"] == precision]
        ceilings = [row for row in rows if row["server"] == "ceiling"]
        top = {name: round(statistics.median(row[name] for row in ceilings), 3)
               for name in ("batch", "requests_s", "run_cpu_ms", "decode_cpu_ms")}
        servers = [row for row in rows if row["server"] != "ceiling"]
        best, summed = {}, []
        for clients in dict.fromkeys(row["clients"] for row in servers):
            here = [row for row in servers if row["clients"] == clients]
            names = list(dict.fromkeys(row["server"] for row in here))
            rates = {name: statistics.median(row["requests_s"] for row in here if row["server"] == name) for name in names}
            others = [name for name in names if name != OURS.name]
            if others:
                best[str(clients)] = max(others, key=lambda name: rates[name])
            summed += [server_row(name, here, best.get(str(clients)), top["requests_s"]) for name in names]
        ours = [row for row in summed if row["server"] == OURS.name and "cpu_ms" in row]
        found[precision] = {"ceiling": top, "best_peer": best, "servers": summed,
                            "split": {str(row["clients"]): split(row, top, cpus) for row in ours}}
    return found


def server_row(name: str, rows: list[dict[str, Any]], best_peer: str | None, ceiling_s: float) -> dict[str, Any]:
    """Medians over the rounds of one server under one number of clients."""
    mine = sorted((row for row in rows if row["server"] == name), key=lambda row: row["round"])
    found: dict[str, Any] = {"server": name, "title": mine[0]["title"], "clients": mine[0]["clients"],
                             "n": sum(row["n"] for row in mine), "errors": sum(sum(row["errors"].values()) for row in mine)}
    for key in ("requests_s", "p50_ms", "p95_ms", "p99_ms", "ready_s", "peak_mb", "stolen"):
        if values := [row[key] for row in mine if key in row]:
            found[key] = round(statistics.median(values), 3)
    if spent := [row["cpu_ms"] for row in mine if "cpu_ms" in row]:
        found["cpu_ms"] = {who: round(statistics.median(each[who] for each in spent), 4) for who in spent[0]}
    found["of_ceiling"] = round(found["requests_s"] / ceiling_s, 3)
    bests = {row["round"]: row["requests_s"] for row in rows if row["server"] == best_peer}
    if ratios := [row["requests_s"] / bests[row["round"]] for row in mine if bests.get(row["round"])]:
        found["ratio"] = round(statistics.median(ratios), 3)
    return found


def split(row: dict[str, Any], top: dict[str, float], cpus: int) -> dict[str, float]:
    """Where the CPUs' milliseconds of one answer go. run and decode are what they cost alone; other is the rest of the server;
    idle is what nobody of ours had: waiting, and other programs."""
    everything = 1000 * cpus / row["requests_s"]
    server, client = row["cpu_ms"]["server"], row["cpu_ms"]["client"]
    parts = {"run": top["run_cpu_ms"], "decode": top["decode_cpu_ms"],
             "other": server - top["run_cpu_ms"] - top["decode_cpu_ms"], "client": client, "idle": everything - server - client}
    return {"everything": round(everything, 3), **{name: round(value, 3) for name, value in parts.items()}}


def table(report: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    where, plan = report["machine"], report["plan"]
    yield (f"{where['cpu']}, {where['cpus']} CPUs, load {where['load_1m']:.1f}; JPEGs of 64 px ({report['pictures']}); medians "
           f"of {plan['rounds']} rounds of {plan['seconds']:g} s")
    for precision, found in report["results"].items():
        top = found["ceiling"]
        yield (f"\n{precision}: session.run alone makes {top['requests_s']:.0f} pictures a second "
               f"(batches of {top['batch']:.0f}, one on each of {report['cpus']} CPUs)")
        yield (f"{'':24}{'clients':>8}{'per s':>9}{'x best':>8}{'ceiling':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"
               f"{'CPU ms':>8}{'ready s':>9}{'MB':>6}{'stolen':>8}  errors")
        for row in found["servers"]:
            yield _server_line(row)
        for clients, parts in found["split"].items():
            yield (f"ours at {clients} clients, CPU ms of one answer out of {parts['everything']:.2f}: "
                   + ", ".join(f"{name} {parts[name]:.2f}" for name in ("run", "decode", "other", "client", "idle")))
        yield from verdict(precision, found)
    yield ("\nx best: of the best peer's requests a second, in the same round; CPU ms: the server's, per answer; ready: from "
           "process start to first answer; MB: peak, each process counted whole; stolen: of the CPUs' time, by the hypervisor.")
    if report["untuned"]:
        yield f"Not tuned: {', '.join(report['untuned'])}. Run python -m benchmarks.sweep before you compare."
    if where["load_1m"] > QUIET * where["cpus"]:
        yield f"The machine was busy before it began (load {where['load_1m']:.1f}): these figures are worth little."


def _server_line(row: dict[str, Any]) -> str:
    times = "".join(f"{row[key]:9.2f}" if key in row else f"{'':9}" for key in ("p50_ms", "p95_ms", "p99_ms"))
    ratio = f"{row['ratio']:7.2f}x" if "ratio" in row else f"{'':8}"
    spent = f"{row['cpu_ms']['server']:8.2f}" if "cpu_ms" in row else f"{'':8}"
    return (f"{row['title']:24}{row['clients']:8}{row['requests_s']:9.1f}{ratio}{row['of_ceiling']:9.0%}{times}{spent}"
            f"{row['ready_s']:9.2f}{row.get('peak_mb', 0):6.0f}{row.get('stolen', 0):8.0%}  {row['errors'] or 'none'}")


def verdict(precision: str, found: dict[str, Any]) -> Iterator[str]:
    """Our goals, each beside what was measured; none where nobody was there to compare with."""
    for row in found["servers"]:
        best = found["best_peer"].get(str(row["clients"]))
        if row["server"] != OURS.name or "ratio" not in row or row["clients"] not in (1, LOADED):
            continue
        goal = 1.0 if row["clients"] == 1 else GOALS.get(precision, 1.0)
        yield (f"goal at {row['clients']} client{'s' * (row['clients'] > 1)}: {goal:g}x the best peer ({best}); "
               f"measured {row['ratio']:.2f}x: {'reached' if row['ratio'] >= goal else 'missed'}"
               + (f"; p99 is {row['p99_ms'] / row['p50_ms']:.1f}x p50 (goal: below 3)" if "p99_ms" in row else ""))


def draw(report: dict[str, Any], path: Path) -> None:
    """Answers a second of each server beside the ceiling, and where our CPU time goes; a column a precision."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    results = report["results"]
    figure, axes = plt.subplots(2, len(results), figsize=(6.5 * len(results), 7.5), squeeze=False,
                                gridspec_kw={"height_ratios": (3, 1.4)}, layout="constrained")
    for column, (precision, found) in enumerate(results.items()):
        _draw_rates(axes[0][column], precision, found)
        _draw_split(axes[1][column], found["split"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_rates(axis: Any, precision: str, found: dict[str, Any]) -> None:
    titles = list(dict.fromkeys(row["title"] for row in found["servers"]))
    counts = list(dict.fromkeys(row["clients"] for row in found["servers"]))
    height = 0.8 / len(counts)
    for i, clients in enumerate(counts):
        rates = {row["title"]: row for row in found["servers"] if row["clients"] == clients}
        places = [titles.index(title) + (i - (len(counts) - 1) / 2) * height for title in rates]
        bars = axis.barh(places, [row["requests_s"] for row in rates.values()], height * 0.92, color=f"C{i}",
                         label=f"{clients} client{'s' * (clients > 1)}")
        axis.bar_label(bars, [f"{row['requests_s']:.0f}" for row in rates.values()], padding=3, fontsize=8)
    axis.axvline(found["ceiling"]["requests_s"], color="0.3", linestyle="--", label="session.run alone")
    axis.set_yticks(range(len(titles)), titles)
    axis.invert_yaxis()
    axis.set_title(precision)
    axis.set_xlabel("answers a second")
    axis.set_xlim(0, 1.12 * max(found["ceiling"]["requests_s"], *(row["requests_s"] for row in found["servers"])))
    axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _draw_split(axis: Any, splits: dict[str, dict[str, float]]) -> None:
    names = [f"{clients} client{'s' * (clients != '1')}" for clients in splits]
    left = np.zeros(len(names))
    for i, part in enumerate(("run", "decode", "other", "client", "idle")):
        widths = np.array([max(parts[part], 0) for parts in splits.values()])
        axis.barh(names, widths, 0.6, left=left, color=f"C{i + 3}" if part != "idle" else "0.9", label=part)
        left += widths
    axis.invert_yaxis()
    axis.set_xlabel("ours: CPU milliseconds of one answer, all CPUs")
    axis.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.3))


if __name__ == "__main__":
    raise SystemExit(main())
