"""Cold and warm answers of a function in its container, beside a handler as such handlers are usually written.

    python -m benchmarks.cold --base-image shutterless-base:local

One ResNet50 with weights drawn by lot (time does not depend on them), 224 px, and one drawn JPEG of 640x480, through the real
runtime interface emulator; beside it the model that ships, for what the handler adds to a small network. New containers take
turns, so that all variants meet the same noise; files are in the page cache. The emulator starts the runtime at the first
call: "start to first answer" is that call, from its first byte to its answer's last, and INIT the part of it that the
emulator reports. Warm calls take turns too, in several containers of each variant: what one container measures differs by
some percent from what another of the same image does. The plain handler stands in references/plain_handler. What is made for
it (weights, bundles, images) stays for the next run.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import logging
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.predict import heading

ROOT = Path(__file__).parent.parent
WORK = ROOT / "var/bench/cold"
AWS_BASE = "public.ecr.aws/lambda/python:3.13"
SIDE, CLASSES, BUCKET = 224, 10, "bench"
MEMORY_MB = 3538  # of which Lambda makes two virtual CPUs
PATH = "/2015-03-31/functions/function/invocations"
START_S, ANSWER_S = 30, 120
WARM_UP = 3  # calls of a new container that are not counted
ROUND = 4  # warm calls before the next container has its turn; one before them is not counted
PLAIN = "plain handler: torch, weights from S3"
SHIPPED = "ours, the model that ships"  # another, smaller network: what the handler adds weighs most there


@dataclass(frozen=True)
class Variant:
    """A function to measure: its image, and what its environment adds."""

    name: str
    image: str
    environment: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both forms of the report, and draw it."""
    options = _options(arguments)
    event = rest_event(drawn_jpeg())
    with s3() as address:
        variants = prepare(options.base_image, address)
        cold = measure_cold(variants, event, options.containers)
        warm = measure_warm(variants, event, options.calls, options.warm)
    report = heading("cold", arguments) | {"containers": options.containers, "calls": len(warm[PLAIN]), "warm": options.warm,
                                           "variants": summary(cold, warm)}
    for line in table(report):
        print(line)
    draw(report, WORK / "cold.png")
    print(f"plot: {(WORK / 'cold.png').relative_to(ROOT)}")
    print(json.dumps(report))
    return 0


def measure_cold(variants: list[Variant], event: bytes, containers: int) -> dict[str, list[dict[str, float]]]:
    """Milliseconds of each new container, the first round left out: it fills the page cache."""
    found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    for i in range(containers + 1):
        for variant in variants:
            print(f"cold, round {i} of {containers}: {variant.name}", file=sys.stderr)
            with container(variant) as function:
                answer, first_ms = function.ask(event)
                if i:
                    found[variant.name].append({"first": first_ms, "init": function.init_ms(), **_steps(answer)})
    return found


def measure_warm(variants: list[Variant], event: bytes, calls: int, containers: int) -> dict[str, list[dict[str, float]]]:
    """Milliseconds of each call, seen from outside, and of its parts where the answer tells them; so many `containers` of each
    variant share its calls."""
    found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    with ExitStack() as held:
        print(f"warm: {containers} containers of each of {len(variants)} variants", file=sys.stderr)
        functions = [(variant.name, held.enter_context(container(variant))) for _ in range(containers) for variant in variants]
        counted: list[list[dict[str, float] | None]] = [[None] * WARM_UP for _ in functions]
        for _, function in functions:
            for _ in range(WARM_UP):
                function.ask(event)
        for _ in range(0, calls, ROUND * containers):
            for (_, function), told in zip(functions, counted, strict=True):
                function.ask(event)
                told.append(None)
                for _ in range(ROUND):
                    answer, taken_ms = function.ask(event)
                    told.append({"call": taken_ms, **_steps(answer)})
        for (name, function), told in zip(functions, counted, strict=True):
            for call, ms in zip(told, function.durations_ms(), strict=False):
                if call:
                    found[name].append(call | {"duration": ms})
    return found


def summary(cold: dict[str, list[dict[str, float]]], warm: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Medians by variant; the best of the cold ones too, and what the handler adds to the parts of a picture."""
    found = {}
    for name, runs in cold.items():
        calls = warm[name]
        row: dict[str, Any] = {
            "init_ms": _median(runs, "init"), "first_ms": _median(runs, "first"), "call_ms": _median(calls, "call"),
            "duration_ms": _median(calls, "duration"), "best_init_ms": min(run["init"] for run in runs),
            "best_first_ms": min(run["first"] for run in runs)}
        row["handler_ms"] = _median(calls, "total")
        if "decode" in calls[0]:
            floors = [{"floor": call["decode"] + call["preprocess"] + call["inference"]} for call in calls]
            row |= {"floor_ms": _median(floors, "floor")}
            row |= {"added": round(row["handler_ms"] / row["floor_ms"] - 1, 4),
                    "start": {step: _median(runs, step) for step in runs[0] if step not in ("first", "init", "total")}}
        found[name] = row
    return found


def table(report: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    rows, width = report["variants"], max(map(len, report["variants"]))
    plain = rows.get(PLAIN)
    yield (f"{'ms, medians':{width}}{'INIT':>8}{'first':>8}{'warm':>9}{'billed':>9}{'handler':>9}{'floor':>9}"
           f"{'added':>8}{'cold':>8}{'billed':>8}{'handler':>9}")
    for name, row in rows.items():
        floor = f"{row['floor_ms']:9.2f}{100 * row['added']:7.1f}%" if "added" in row else f"{'':17}"
        times = (f"{plain['first_ms'] / row['first_ms']:7.1f}x{plain['duration_ms'] / row['duration_ms']:7.2f}x"
                 f"{plain['handler_ms'] / row['handler_ms']:8.2f}x" if plain and name != SHIPPED else "")
        yield (f"{name:{width}}{row['init_ms']:8.0f}{row['first_ms']:8.0f}{row['call_ms']:9.2f}{row['duration_ms']:9.2f}"
               f"{row['handler_ms']:9.2f}{floor}{times}")
    yield (f"{report['containers']} new containers and {report['calls']} warm calls of each, in turns, these in {report['warm']} "
           "containers; warm is a call seen from outside, billed what the emulator reports of it, handler and floor (decode + "
           "preprocess + session.run) are inside, by the handler's own clock (the plain one's stops before it writes its "
           "answer); added: how much longer the handler takes than the floor; x: faster than the plain handler.")
    for name, row in rows.items():
        if "start" in row:
            yield f"{name}: " + ", ".join(f"{step} {ms:.0f}" for step, ms in row["start"].items())


def draw(report: dict[str, Any], path: Path) -> None:
    """Cold on the left, warm on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = dict(reversed(report["variants"].items()))
    figure, axes = plt.subplots(1, 2, figsize=(13, 1.2 + 0.5 * len(rows)), sharey=True, layout="constrained")
    titles = {"first_ms": "new container: start to first answer", "call_ms": "warm call"}
    for axis, (part, title) in zip(axes, titles.items(), strict=True):
        bars = axis.barh(list(rows), [row[part] for row in rows.values()], color="#2563eb")
        axis.bar_label(bars, fmt="%.0f", padding=3)
        axis.margins(x=0.12)
        axis.set(xlabel=f"{title}, ms (median)")
    axes[0].barh(list(rows), [row["init_ms"] for row in rows.values()], color="#93c5fd", height=0.35, label="of it INIT")
    axes[0].legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


# What is measured.

def prepare(base_image: str, s3_address: str) -> list[Variant]:
    """Weights, bundles and images, as far as they are not there yet; weights and bundles lie in S3 as well."""
    make_bundles()
    base = build_ours(base_image)
    port = s3_address.rpartition(":")[2]
    away = {"AWS_ENDPOINT_URL": f"http://host.docker.internal:{port}", "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    upload(s3_address)
    variants = [Variant(f"ours, {precision}, baked", bake(base, precision)) for precision in ("fp32", "int8")]
    variants.append(Variant("ours, fp32, from S3", base, away | {"MODEL_URI": f"s3://{BUCKET}/resnet50-fp32/1"}))
    variants.append(Variant(SHIPPED, base))
    plain = build_plain(base_image)
    return [*variants, Variant(PLAIN, plain, away | {"WEIGHTS_BUCKET": BUCKET, "WEIGHTS_KEY": "weights.pth",
                                                     "CLASSES": str(CLASSES)})]


def make_bundles(work: Path = WORK, side: int = SIDE) -> None:
    """ResNet50 as fp32 and int8 in `work`, by the steps of export as they are now. Its gates are left out: weights drawn by lot
    know nothing."""
    steps, made = sorted((ROOT / "model_export").glob("*.py")), work / "steps.sha256"
    wanted = hashlib.sha256(b"".join(step.read_bytes() for step in steps)).hexdigest()
    if made.is_file() and made.read_text() == wanted:
        return
    from benchmarks.references.torch_eager import random_resnet50
    from model_export.architectures import default_input
    from model_export.graph import opset, write_graph
    from model_export.optimise import bundle_files, make_serving
    from model_export.quantize import quantize
    from shutterless.manifests import Manifest

    work.mkdir(parents=True, exist_ok=True)
    model, spec = random_resnet50(CLASSES, work / "weights.pth"), default_input("resnet50", side)
    pixels = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), dtype=np.uint8)
    graphs = {precision: work / f"{precision}.onnx" for precision in ("fp32", "int8")}
    write_graph(model, spec, graphs["fp32"])
    quantize(graphs["fp32"], graphs["int8"], pixels)
    for precision, graph in graphs.items():
        folder = work / f"resnet50-{precision}/1"
        folder.mkdir(parents=True, exist_ok=True)
        _, optimised = make_serving(graph, folder / "model.onnx", "always", pixels)
        manifest = Manifest(name=f"resnet50-{precision}", version="1", task="classify", opset=opset(folder / "model.onnx"),
                            labels=tuple(map(str, range(CLASSES))), input=spec, precision=precision, optimised=optimised,
                            files=bundle_files(folder))
        (folder / "manifest.json").write_text(manifest.to_json())
    made.write_text(wanted)


def build_ours(base_image: str) -> str:
    """The id of the project's own image."""
    subprocess.run([sys.executable, "-c", "from cli.main import main; raise SystemExit(main())", "images", "inference",
                    "--base-image", base_image], cwd=ROOT, check=True, stdout=sys.stderr)
    return subprocess.run(["docker", "image", "inspect", "--format", "{{.Id}}", "shutterless-inference:latest"],
                          capture_output=True, text=True, check=True).stdout.strip()


def bake(base: str, precision: str) -> str:
    """An image of `base` with that bundle in it."""
    name = f"resnet50-{precision}"
    digest = hashlib.sha256(f"{base} {(WORK / name / '1/manifest.json').read_text()}".encode()).hexdigest()[:16]
    tag = f"shutterless-bench-{precision}:{digest}"
    if not is_there(tag):
        recipe = f"FROM {base}\nCOPY {name} /var/task/models/{name}/\nENV SHUTTERLESS_MODEL={name}\n"
        (WORK / f"{name}.Dockerfile").write_text(recipe)
        _docker("build", "--quiet", "--file", str(WORK / f"{name}.Dockerfile"), "--tag", tag, str(WORK))
    return tag


def build_plain(base_image: str) -> str:
    """The image of references/plain_handler: gigabytes, so once."""
    folder = ROOT / "benchmarks/references/plain_handler"
    text = base_image + "".join(path.read_text() for path in sorted(folder.iterdir()) if path.is_file())
    tag = f"shutterless-bench-plain:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not is_there(tag):
        _docker("build", "--tag", tag, "--build-arg", f"BASE_IMAGE={base_image}", str(folder))
    return tag


def is_there(image: str) -> bool:
    """Whether Docker has it."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def rest_event(jpeg: bytes) -> bytes:
    """API Gateway's event of POST /predict."""
    event = {"resource": "/predict", "path": "/predict", "httpMethod": "POST", "headers": {"Content-Type": "image/jpeg"},
             "queryStringParameters": None, "requestContext": {"resourcePath": "/predict", "stage": "bench"},
             "body": base64.b64encode(jpeg).decode(), "isBase64Encoded": True}
    return json.dumps(event).encode()


def drawn_jpeg() -> bytes:
    """640x480 with edges and noise, as a photo has them: about 100 kB."""
    random, (y, x) = np.random.default_rng(0), np.mgrid[:480, :640]
    waves = np.stack([127 + 90 * np.sin(x / a + y / b) for a, b in ((37, 61), (53, 29), (71, 43))], axis=2)
    pixels = (waves + random.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


# Where it runs.

class Function:
    """A running container, called over one connection after the other: the emulator takes one call at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        published = subprocess.run(["docker", "port", name, "8080/tcp"], capture_output=True, text=True, check=True).stdout
        self._port = int(published.split()[0].rpartition(":")[2])

    def ask(self, event: bytes) -> tuple[dict[str, Any], float]:
        """The answer, and the milliseconds until its last byte was here."""
        began = time.perf_counter()
        body = self._request("POST", PATH, event)
        taken_ms = 1000 * (time.perf_counter() - began)
        answer: dict[str, Any] = json.loads(body)
        if answer.get("statusCode") != 200:
            raise RuntimeError(f"{answer}\n{self.log()}")
        return answer, taken_ms

    def init_ms(self) -> float:
        """As the emulator's own report has it; its `Init Duration` is another, wrong one."""
        found = re.search(r"INIT REPORT\(durationMs: ([0-9.]+)", self.log())
        if found is None:
            raise RuntimeError(f"The emulator reports no INIT:\n{self.log()}")
        return float(found[1])

    def durations_ms(self) -> list[float]:
        """Of all calls, as the emulator reports them: what Lambda would bill."""
        return [float(ms) for ms in re.findall(r"\tDuration: ([0-9.]+) ms", self.log())]

    def log(self) -> str:
        """What function and emulator printed."""
        done = subprocess.run(["docker", "logs", self._name], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def wait(self) -> None:
        """Until the emulator listens; Docker's proxy takes connections before it does, and drops them."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._request("GET", "/", b"")
                return
            except (OSError, HTTPException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def container(variant: Variant) -> Iterator[Function]:
    """A new container, whose runtime has not been started yet; removed at the end."""
    environment = {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB), **variant.environment}
    options = [word for item in environment.items() for word in ("--env", "=".join(item))]
    name = subprocess.run(["docker", "run", "--detach", "--publish", "127.0.0.1::8080", "--cpus", "2",
                           "--add-host", "host.docker.internal:host-gateway", *options, variant.image],
                          capture_output=True, text=True, check=True).stdout.strip()
    try:
        function = Function(name)
        function.wait()
        yield function
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


@contextmanager
def s3() -> Iterator[str]:
    """An S3 emulator that containers can reach, at the address yielded."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    inspected = subprocess.run(["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"],
                               capture_output=True, text=True, check=True).stdout.strip()
    server = ThreadedMotoServer(ip_address=inspected, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def upload(address: str) -> None:
    """Weights and the fp32 bundle."""
    import boto3

    client = boto3.client("s3", endpoint_url=address, aws_access_key_id="test", aws_secret_access_key="test",  # noqa: S106
                          region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.upload_file(str(WORK / "weights.pth"), BUCKET, "weights.pth")
    for path in sorted((WORK / "resnet50-fp32/1").iterdir()):
        client.upload_file(str(path), BUCKET, f"resnet50-fp32/1/{path.name}")


def _docker(*words: str) -> None:
    subprocess.run(["docker", *words], cwd=ROOT, check=True, stdout=sys.stderr)


def _steps(answer: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of the answer's parts and of its whole, `total`: from our header, or from the plain handler's timings."""
    timing = {name.lower(): value for name, value in answer["headers"].items()}.get("server-timing", "")
    if not timing:
        told = json.loads(answer["body"])["timings"]
        return {"total": 1000 * (told["preprocess_s"] + told["inference_s"])}
    return {name: float(ms) for name, ms in re.findall(r"([\w-]+);dur=([0-9.]+)", timing)}


def _median(runs: list[dict[str, float]], part: str) -> float:
    return round(statistics.median(run[part] for run in runs if part in run), 3)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-image", default=AWS_BASE, metavar="IMAGE", help="what the images stand on (default: %(default)s)")
    parser.add_argument("--containers", type=int, default=7, metavar="N", help="new ones of each variant (default: %(default)s)")
    parser.add_argument("--warm", type=int, default=3, metavar="N", help="containers that share them (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=100, metavar="N", help="warm ones of each variant (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
