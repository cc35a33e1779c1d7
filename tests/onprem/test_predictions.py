import base64
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest


def test_a_form_names_the_label_of_a_picture(client: httpx.Client, jpeg: Callable[..., bytes]) -> None:
    answer = client.post("/predict", files={"file": ("tile.jpg", jpeg("green"))})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["label"] == "green"
    assert answer.json()["model"]["name"] == "colours"


def test_raw_bytes_a_form_and_base64_by_both_names_get_the_same_answer(client, jpeg) -> None:
    picture = jpeg("blue")
    text = base64.b64encode(picture).decode()
    answers = [
        client.post("/predict", content=picture, headers={"content-type": "image/jpeg"}),
        client.post("/predict", content=picture),
        client.post("/predict", files={"file": ("ünï — код.jpg", picture, "image/png")}),
        client.post("/predict", json={"image_base64": text, "extension": "jpg"}),
        client.post("/predict", json={"image_b64": text}),
    ]
    varying = ("timings", "cold_start")
    told = [{name: value for name, value in answer.json().items() if name not in varying} for answer in answers]
    assert told == [told[0]] * 5
    assert told[0]["label"] == "blue"


def test_top_ranks_as_many_labels_as_asked(client, jpeg) -> None:
    for top, count in ((1, 1), (2, 2), (1000, 3)):
        ranked = client.post("/predict", params={"top": top}, content=jpeg()).json()["top"]
        assert len(ranked) == count
    assert client.post("/predict", content=jpeg()).json()["top"][0]["label"] == "red"
    assert len(client.post("/predict?top=&model=", content=jpeg()).json()["top"]) == 3  # a form left empty


@pytest.mark.parametrize("top", ["0", "-1", "1001", "abc", "1e3", "9" * 400])
def test_a_bad_top_is_refused_by_name(client, jpeg, top: str) -> None:
    answer = client.post("/predict", params={"top": top}, content=jpeg())
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith("top: ")
    assert len(answer.json()["detail"]) < 300


def test_every_answer_carries_its_request_id_and_its_time(client, jpeg) -> None:
    good, bad = client.post("/predict", content=jpeg()), client.post("/predict", content=b"x")
    assert good.headers["x-request-id"] != bad.headers["x-request-id"] == bad.json()["request_id"]
    assert "inference;dur=" in good.headers["server-timing"]
    assert "total;dur=" in good.headers["server-timing"]
    assert "total;dur=" in bad.headers["server-timing"]


@pytest.mark.parametrize(("status", "content_type", "body"), [
    (400, "image/jpeg", b""),
    (400, "image/jpeg", b"\xff"),
    (400, "image/png", b"not a picture at all"),
    (415, "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    (415, "text/html", b"<p>"),
    (415, "application/x-www-form-urlencoded", b"file=abc"),
    (422, "multipart/form-data", b"--a\r\n\r\n--a--"),
    (422, "multipart/form-data; boundary=a", b""),
    (422, "multipart/form-data; boundary=a", b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc'),
    (422, "multipart/form-data; boundary=a", b'--a\r\nContent-Disposition: form-data; name="photo"\r\n\r\nx\r\n--a--'),
    (422, "application/json", b""),
    (422, "application/json", b"{"),
    (422, "application/json", b"[" * 100_000),
    (422, "application/json", b"[]"),
    (422, "application/json", b'{"image_base64": 1}'),
    (422, "application/json", b'{"image_base64": "***"}'),
    (422, "application/json", b'{"picture": "AAAA"}'),
    (400, "application/json", b'{"image_base64": "AAAA"}'),
])
@pytest.mark.parametrize("route", ["/predict", "/upload-image"])
def test_a_body_that_is_no_picture_is_refused_with_a_remedy(
        client, route: str, status: int, content_type: str, body: bytes) -> None:
    answer = client.post(route, content=body, headers={"content-type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == status
    assert problem["detail"].endswith((".", "jpg"))
    assert "Traceback" not in answer.text


def test_a_picture_that_is_cut_short_is_refused(client, jpeg) -> None:
    for cut in (10, 200, -200):
        assert client.post("/predict", content=jpeg()[:cut]).status_code == 400


def test_a_lying_content_type_changes_nothing(client, jpeg) -> None:
    assert client.post("/predict", content=jpeg(), headers={"content-type": "image/png"}).json()["label"] == "red"


@pytest.mark.parametrize("model", ["nope", "colours/2", "../colours/1", "..", "/", "colours/../colours/1", "colours/1/",
                                   "/etc", "colours\0", "%2e%2e", "C:\\models", " ", "ü", "x" * 5000])
def test_a_model_that_is_not_listed_is_not_found(client, jpeg, model: str) -> None:
    answer = client.post("/predict", params={"model": model}, content=jpeg())
    assert answer.status_code == 404
    assert "GET /models" in answer.json()["detail"]
    assert len(answer.text) < 1000


def test_a_path_outside_of_the_models_folder_is_no_model(open_door, jpeg, make_bundle, tmp_path, monkeypatch) -> None:
    outside = make_bundle(tmp_path / "outside")
    monkeypatch.chdir(tmp_path / "outside")
    client = open_door()
    for model in (str(outside), "colours/1/../1", "./colours/1"):
        assert client.post("/predict", params={"model": model}, content=jpeg()).status_code == 404


def test_model_chooses_one_of_several_bundles_and_is_recorded_beside_the_answer(
        open_door, jpeg, make_bundle, tmp_path: Path) -> None:
    for name, version in (("first", "1"), ("second", "9"), ("second", "10")):
        make_bundle(tmp_path / "models", name=name, version=version)
    client = open_door(models_dir=tmp_path / "models", model="first")

    def who(**query: str) -> tuple[str, str]:
        model = client.post("/predict", params=query, content=jpeg()).json()["model"]
        return model["name"], model["version"]

    assert who() == ("first", "1")
    assert who(model="second") == ("second", "10")
    assert who(model="second/9") == ("second", "9")
    listed = client.get("/models").json()["models"]
    assert [(model["name"], model["version"], model["default"]) for model in listed] == [
        ("first", "1", True), ("second", "10", False)]


def test_bundles_of_other_labels_and_other_sizes_answer_side_by_side(open_door, jpeg, make_bundle, tmp_path: Path) -> None:
    make_bundle(tmp_path / "models", name="colours", side=32)
    make_bundle(tmp_path / "models", name="warmth", side=48, model=warmth_model(48), labels=["cold", "warm"], input={"size": 48})
    client = open_door(models_dir=tmp_path / "models", model="colours")

    def asked(model: str, colour: str) -> tuple[str, int, int]:
        answer = client.post("/predict", params={"model": model, "top": 9}, content=jpeg(colour)).json()
        return answer["label"], answer["pred_index"], len(answer["top"])

    for _ in range(2):
        assert asked("colours", "blue") == ("blue", 2, 3)
        assert asked("warmth", "blue") == ("cold", 0, 2)
        assert asked("warmth", "red") == ("warm", 1, 2)
        assert asked("colours", "red") == ("red", 0, 3)
    inputs = {model["name"]: (model["labels"], model["input"]["size"]) for model in client.get("/models").json()["models"]}
    assert inputs == {"colours": (["red", "green", "blue"], 32), "warmth": (["cold", "warm"], 48)}


def warmth_model(side: int) -> bytes:
    """uint8 (N, side, side, 3) -> logits float (N, 2): mean of blue, mean of red, each over 16."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
             helper.make_node("MatMul", ["means", "chosen"], ["logits"])]
    graph = helper.make_graph(
        nodes, "warmth", [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.array([[0, 1], [0, 0], [1, 0]], np.float32) / 16, "chosen")])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return model


def test_the_form_may_name_the_model_too(client, jpeg) -> None:
    answer = client.post("/predict", files={"file": jpeg()}, data={"model": "nope"})
    assert answer.status_code == 404


def test_an_altered_bundle_is_refused_and_the_client_learns_no_path(open_door, jpeg, make_bundle, tmp_path) -> None:
    make_bundle(tmp_path / "models")
    altered = make_bundle(tmp_path / "models", name="altered")
    (altered / "model.onnx").write_bytes(bytes(len((altered / "model.onnx").read_bytes())))
    answer = open_door(models_dir=tmp_path / "models").post("/predict?model=altered", content=jpeg())
    assert answer.status_code == 503
    assert "sha256" not in answer.text
    assert str(tmp_path) not in answer.text


def test_a_broken_bundle_is_left_out_of_models(open_door, make_bundle, tmp_path) -> None:
    make_bundle(tmp_path / "models")
    (make_bundle(tmp_path / "models", name="broken") / "manifest.json").write_text("{")
    client = open_door(models_dir=tmp_path / "models")
    assert [model["name"] for model in client.get("/models").json()["models"]] == ["colours"]


def test_no_more_models_are_kept_open_than_the_shelf_holds(make_bundle, tmp_path) -> None:
    from shutterless.settings import Settings
    from shutterless.shelf import Shelf

    for name in ("default", "a", "b", "c"):
        make_bundle(tmp_path, name=name)
    shelf = Shelf(Settings(models_dir=tmp_path, model="default"), capacity=2)
    first = shelf.classifier("a")
    assert shelf.classifier("a") is first
    shelf.classifier("b")
    shelf.classifier("c")
    assert shelf.classifier("a") is not first
    assert shelf.classifier("default") is shelf.classifier() is shelf.default


def test_too_large_a_picture_is_refused_before_it_is_read(open_door, jpeg) -> None:
    client = open_door(max_bytes=10_000, max_pixels=70 * 70)
    assert client.post("/predict", content=jpeg(side=64)).status_code == 200
    answer = client.post("/predict", content=jpeg(side=80))
    assert answer.status_code == 413
    assert "pixels" in answer.json()["detail"]
    assert client.post("/predict", content=bytes(10_001)).status_code == 413
    assert client.post("/predict", content=bytes(60_000_000)).status_code == 413
    assert client.post("/predict", json={"image_base64": "A" * 200_000}).status_code == 413


def test_numbers_survive_as_json(client, jpeg) -> None:
    answer = client.post("/predict", content=jpeg()).content
    assert json.loads(answer)["confidence"] == json.loads(answer)["top"][0]["confidence"]


def test_only_a_small_picture_that_comes_alone_to_a_fast_model_is_answered_on_the_event_loop(
        jpeg, encode, make_bundle, tmp_path, monkeypatch) -> None:
    import asyncio
    import threading

    from PIL import Image

    from onprem.app import create_app
    from shutterless.classifier import Classifier
    from shutterless.settings import Settings

    threads: list[str] = []
    answers = Classifier.answers

    def noted(self: Classifier, *arguments: object) -> object:
        threads.append(threading.current_thread().name.partition("_")[0])
        return answers(self, *arguments)

    monkeypatch.setattr(Classifier, "answers", noted)
    models = tmp_path / "models"
    make_bundle(models)
    make_bundle(models, name="other")
    app = create_app(Settings(models_dir=models, model="colours", var_dir=tmp_path))
    default, large = app.state.door.shelf.default, encode(Image.new("RGB", (2000, 2000)), "PNG")
    assert len(large) < 32_768

    async def ask(**request: object) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            return await client.post("/predict", **request)

    def thread_of(run_s: float = 0.001, **request: object) -> str:
        default.run_s = run_s
        assert asyncio.run(ask(**request)).status_code == 200
        return threads.pop()

    assert thread_of(content=jpeg()) != "batch"
    assert thread_of(content=jpeg(), run_s=0.05) == "batch"
    assert default.run_s < 0.05, "one slow moment at the start has decided for ever"
    assert thread_of(content=large) == "batch"
    assert thread_of(content=jpeg() + bytes(40_000)) == "batch"
    assert thread_of(content=jpeg(), params={"model": "other"}) == "batch"
    assert thread_of(files={"file": jpeg()}, data={"model": "other"}) == "batch"
    app.state.door.compute.shutdown()
    app.state.door.batcher.stop()
