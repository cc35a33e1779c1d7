"""Function predict, on the tiny bundle, through every shape of event; and beside the on-prem server and the command line."""

import asyncio
import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

import lambdas.predictions
from cli.main import main
from lambdas.door import Door, serve
from lambdas.predictions import Predictions, read_top
from lambdas.start import Model
from onprem.app import create_app, describe
from onprem.docs import WRITTEN, to_text
from shutterless.errors import BadRequest
from shutterless.settings import Settings

ROOT = Path(__file__).parents[2]


def make_door(models_dir: Path, **settings) -> Door:
    model = Model(Settings(**{"model": "colours", "models_dir": models_dir} | settings))
    with model.opening():
        pass
    return Predictions(model).door()


@pytest.fixture(scope="module")
def door(models_dir) -> Door:
    return make_door(models_dir)


@pytest.fixture(scope="module")
def picture(draw, encode) -> bytes:
    return encode(draw((64, 48)), "JPEG")


@pytest.fixture
def call(make_event, context, door):
    """`call("POST", "/predict", body, content_type)`: the response, its body read."""
    def call(*request, door=door, **more):
        response = serve(make_event(*request, **more), context, door)
        if response["headers"].get("content-type", "").endswith("json") and response["body"]:
            response["body"] = json.loads(response["body"])
        return response
    return call


def form(picture: bytes, **fields: str) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files={"file": ("a.jpg", picture)}, data=fields)
    return request.read(), request.headers["content-type"]


def bodies(picture: bytes, **fields: str) -> list[tuple[bytes, str | None]]:
    """Every way to send a picture."""
    encoded = base64.b64encode(picture).decode()
    return [(picture, "image/jpeg"), (picture, None), (picture, "application/octet-stream"), (picture, "text/plain"),
            form(picture, **fields), (json.dumps({"image_base64": encoded, **fields}).encode(), "application/json"),
            (json.dumps({"image_b64": encoded, **fields}).encode(), "application/json; charset=utf-8"),
            (json.dumps({"image_b64": encoded, **fields}).encode(), None)]


class OnPrem:
    """The on-prem application on the same bundle, asked without a socket."""

    def __init__(self, models_dir: Path, var_dir: Path, **settings: int) -> None:
        self.app = create_app(Settings(model="colours", models_dir=models_dir, var_dir=var_dir, **settings))

    def ask(self, method: str, url: str, **request) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://x") as client:
                return await client.request(method, url, **request)
        return asyncio.run(ask())


def untimed(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name not in ("timings", "cold_start", "file")}


def test_every_body_through_every_event_gets_the_same_answer(call, picture):
    answers = [call("POST", "/predict", *body, query="top=2") for body in bodies(picture)]
    assert [answer["statusCode"] for answer in answers] == [200] * len(answers)
    first = untimed(answers[0]["body"])
    assert [untimed(answer["body"]) for answer in answers] == [first] * len(answers)
    assert len(first["top"]) == 2


@pytest.mark.parametrize("bare", [lambda text: {"image_b64": text}, lambda text: {"image_base64": text, "top": 5},
                                  lambda text: {"body": json.dumps({"image_b64": text})}, lambda text: {"body": text},
                                  lambda text: {"body": text, "isBase64Encoded": True}])
def test_who_invokes_by_hand_gets_it_too(call, context, door, picture, bare):
    response = serve(bare(base64.b64encode(picture).decode()), context, door)
    assert untimed(json.loads(response["body"])) == untimed(call("POST", "/predict", picture, "image/jpeg")["body"])


def test_the_three_doors_give_the_same_answer(call, models_dir, tmp_path, monkeypatch, capsys, draw, encode):
    """Everything but the times, to the last digit."""
    monkeypatch.setenv("SHUTTERLESS_MODELS_DIR", str(models_dir))
    on_prem_door = OnPrem(models_dir, tmp_path)
    for number, (size, kind) in enumerate([((64, 48), "JPEG"), ((31, 300), "PNG"), ((500, 20), "WEBP"), ((32, 32), "GIF")]):
        content = encode(draw(size, seed=number), kind)
        (tmp_path / "picture").write_bytes(content)
        capsys.readouterr()
        assert main(["predict", "--json", "--model", "colours", str(tmp_path / "picture")]) == 0
        command_line = json.loads(capsys.readouterr().out)
        on_aws = call("POST", "/predict", content, "image/jpeg")["body"]
        on_prem = on_prem_door.ask("POST", "/predict", content=content, headers={"content-type": "image/jpeg"}).json()
        assert untimed(on_aws) == untimed(on_prem) == untimed(command_line)
        assert on_aws.keys() == on_prem.keys()
        assert on_aws["timings"].keys() == on_prem["timings"].keys()


def test_the_doors_refuse_alike(call, models_dir, tmp_path, picture):
    """Status, title and, where it is the picture's fault, the sentence."""
    limits = {"max_bytes": 3_000, "max_pixels": 10_000}
    door = make_door(models_dir, **limits)
    on_prem_door = OnPrem(models_dir, tmp_path, **limits)
    large = io.BytesIO()
    Image.new("RGB", (200, 200)).save(large, "PNG")
    refused = [(b"", "image/jpeg"), (picture[:300], "image/jpeg"), (b"text", "text/plain"), (large.getvalue(), "image/png"),
               (bytes(3_001), "image/png"), (b"{", "application/json"), (b"[]", "application/json"), (b"GIF89a", "image/gif"),
               (b'{"image_b64": 1}', "application/json"), (b"--x", "multipart/form-data; boundary=x"),
               (b"<svg", "image/svg+xml"), (b"%PDF-1.4", "application/pdf")]
    queries = ["model=nobody", "model=../colours", "top=0", "top=1001", "top=x", "top=1.5"]
    cases = [(*body, "") for body in refused] + [(picture, "image/jpeg", query) for query in queries]
    for body, kind, query in cases:
        on_aws = call("POST", "/predict", body, kind, query=query, door=door)
        on_prem = on_prem_door.ask("POST", f"/predict?{query}", content=body, headers={"content-type": kind})
        assert on_aws["statusCode"] == on_prem.status_code >= 400, (kind, query)
        assert on_aws["headers"]["content-type"] == on_prem.headers["content-type"] == "application/problem+json"
        ours, theirs = on_aws["body"], on_prem.json()
        assert (ours["status"], ours["title"], ours.keys()) == (theirs["status"], theirs["title"], theirs.keys()), (kind, query)
        assert ours["detail"] == theirs["detail"] or query.startswith("top")


def test_a_picture_that_a_request_cannot_carry_goes_by_another_way(call):
    response = call("POST", "/predict", bytes(4_500_001), "image/jpeg")
    assert (response["statusCode"], response["body"]["title"]) == (413, "Picture too large")
    assert "POST /uploads" in response["body"]["detail"]


@pytest.mark.parametrize(("text", "top"), [(None, 5), ("", 5), ("1", 1), (" 7 ", 7), ("+3", 3), ("1000", 1000)])
def test_top_is_read(text, top):
    assert read_top(text) == top


@pytest.mark.parametrize("text", ["0", "-1", "1001", "x", "1e2", "٣", "9" * 5000, "\ud800"])
def test_another_top_is_refused(text):
    with pytest.raises(BadRequest, match="top: expected an integer from 1 to 1000"):
        read_top(text)


def test_top_may_be_more_than_there_are_labels(call, picture):
    assert len(call("POST", "/predict", picture, query="top=1000")["body"]["top"]) == 3


# Several models

def test_a_request_may_ask_for_another_model_that_is_baked_in(call, picture, make_bundle, tmp_path):
    make_bundle(tmp_path)
    make_bundle(tmp_path, name="other", labels=["a", "b", "c"])
    door = make_door(tmp_path)
    assert [entry["name"] for entry in call("GET", "/models", door=door)["body"]["models"]] == ["colours", "other"]
    for body, kind, query in [(picture, "image/jpeg", "model=other"), (*form(picture, model="other"), "")]:
        answer = call("POST", "/predict", body, kind, query=query, door=door)["body"]
        assert (answer["model"]["name"], answer["label"] in "abc") == ("other", True)


def test_models_are_listed_as_on_prem(call, models_dir, tmp_path):
    on_prem_door = OnPrem(models_dir, tmp_path)
    assert call("GET", "/models")["body"] == on_prem_door.ask("GET", "/models").json()


# The first answer, and what is counted

def test_the_first_answer_alone_is_a_cold_start_and_tells_what_the_start_took(call, models_dir, picture, lines):
    door = make_door(models_dir)
    first, second = (call("POST", "/predict", picture, door=door) for _ in range(2))
    assert [answer["body"]["cold_start"] for answer in (first, second)] == [True, False]
    steps = {"imports", "verify", "wait", "session", "warm-up", "start"}
    always = {"decode", "preprocess", "inference", "total"}
    timings = [answer["headers"]["server-timing"].split(", ") for answer in (first, second)]
    assert [{part.partition(";")[0] for part in timing} for timing in timings] == [always | steps, always]
    cold, warm = lines()
    assert cold["ColdStarts"] == 1
    assert {"StartImports", "StartVerify", "StartSession", "StartWarmUp"} <= cold.keys()
    assert not any(name.startswith(("Start", "Cold")) for name in warm)


def test_predictions_are_counted_by_label_up_to_20_labels(call, models_dir, picture, lines, monkeypatch):
    assert call("POST", "/predict", picture)["statusCode"] == 200
    few, = lines()
    assert few["Label"] in ("red", "green", "blue")
    monkeypatch.setattr(lambdas.predictions, "MAX_LABELS", 2)
    call("POST", "/predict", picture)
    many, = lines()
    assert (many["Predictions"], "Label" in many) == (1, False)


# A model that cannot be served

def test_a_missing_or_altered_bundle_is_503_and_the_log_says_why(call, picture, make_bundle, tmp_path, lines):
    folder = make_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(b"altered")
    for models_dir, said in [(tmp_path, "model.onnx: expected"), (tmp_path / "nowhere", "No model is called 'colours'")]:
        door = make_door(models_dir)
        assert said in json.dumps(lines())
        assert call("GET", "/health", door=door)["body"]["ready"] is False
        for request in [("POST", "/predict", picture), ("GET", "/models")]:
            response = call(*request, door=door)
            assert (response["statusCode"], response["body"]["title"]) == (503, "Model not available")
            assert response["headers"]["retry-after"] == "1"
            assert said not in json.dumps(response)
        assert said in json.dumps(lines())


def test_a_model_store_that_was_away_is_asked_again(call, picture, models_dir, monkeypatch, tmp_path):
    monkeypatch.setattr("shutterless.s3.PAUSE_S", 0.0)
    for name, value in {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a",
                        "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    model = Model(Settings(model_uri="s3://bucket/colours/1", var_dir=tmp_path))
    with model.opening():
        pass
    door = Predictions(model).door()
    response = call("POST", "/predict", picture, door=door)
    assert (response["statusCode"], response["body"]["title"]) == (503, "Try again")
    monkeypatch.setattr("lambdas.start.default_bundle", lambda settings: read(models_dir / "colours/1"))
    assert [call("POST", "/predict", picture, door=door)["statusCode"] for _ in range(3)][-1] == 200


def test_a_model_that_is_put_in_its_place_later_needs_no_new_container(call, picture, make_bundle, tmp_path):
    door = make_door(tmp_path)
    assert call("POST", "/predict", picture, door=door)["statusCode"] == 503
    make_bundle(tmp_path)
    assert [call("POST", "/predict", picture, door=door)["statusCode"] for _ in range(3)][-1] == 200


def read(folder):
    from shutterless.bundles import read_bundle

    return read_bundle(folder)


# What describes it

def test_both_doors_serve_one_document(call):
    assert json.loads(to_text(describe().openapi())) == call("GET", "/openapi.json")["body"]
    assert WRITTEN.read_text(encoding="utf-8") == to_text(describe().openapi()), "write it again: python -m onprem.docs"


def test_the_page_holds_the_document_and_asks_no_other_host(call):
    response = call("GET", "/docs")
    html = response["body"]
    assert json.loads(html.partition('id="document">')[2].partition("</script>")[0]) == call("GET", "/openapi.json")["body"]
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert [line for line in html.splitlines() if "src=" in line or "@import" in line] == []
    assert "default-src 'none'" in response["headers"]["content-security-policy"]


def test_health_tells_the_limit_of_this_door(call, models_dir):
    assert call("GET", "/health")["body"]["max_inline_bytes"] == 4_500_000
    assert call("GET", "/health", door=make_door(models_dir, max_bytes=1_000))["body"]["max_inline_bytes"] == 1_000


# The module that Lambda imports

def run(code: str, models_dir: Path, **environ: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False,
                          env={"SHUTTERLESS_MODELS_DIR": str(models_dir), "SHUTTERLESS_MODEL": "colours", **environ})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_handler_is_ready_when_it_is_imported(models_dir):
    code = ("from lambdas import predict; assert predict.MODEL.is_open(); "
            "print(predict.handler({'httpMethod': 'GET', 'path': '/health'}, None)['body'])")
    assert json.loads(run(code, models_dir).splitlines()[-1])["ready"] is True


def test_a_cold_start_imports_nothing_heavy(models_dir, picture):
    heavy = ("boto3", "botocore", "sqlalchemy", "alembic", "pydantic", "fastapi", "starlette", "requests", "torch", "torchvision",
             "asyncio", "http.client", "urllib.request", "email", "ssl", "socket", "python_multipart", "concurrent.futures",
             "multiprocessing", "cryptography", "psycopg", "unittest", "uuid", "onnx")
    event = {"image_b64": base64.b64encode(picture).decode()}
    code = (f"import sys; from lambdas import predict; predict.handler({event!r}, None); "
            f"print(*sorted(set({heavy!r}) & set(sys.modules)))")
    assert run(code, models_dir).splitlines()[-1] == ""


def test_a_restored_snapshot_tells_no_start_that_it_did_not_make(models_dir, picture):
    event = {"image_b64": base64.b64encode(picture).decode()}
    code = ("from lambdas import predict; from snapshot_restore_py import get_after_restore\n"
            "for action, arguments, named in get_after_restore(): action(*arguments, **named)\n"
            f"print(predict.handler({event!r}, None)['headers']['server-timing'])")
    timing = run(code, models_dir, AWS_LAMBDA_INITIALIZATION_TYPE="snap-start").splitlines()[-1]
    assert "inference;dur=" in timing
    assert "imports" not in timing


def test_threads_follow_the_memory_that_lambda_gives():
    from lambdas.environment import read_settings
    from shutterless.settings import usable_cpus

    threads = [read_settings({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": mb}).threads for mb in ("128", "1769", "3538", "10240")]
    assert threads == [1, 1, min(2, usable_cpus()), min(6, usable_cpus())]
    assert read_settings({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "10240", "SHUTTERLESS_THREADS": "3"}).threads == 3
