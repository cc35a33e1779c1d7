import base64
import json
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from cli.main import main
from lambdas.door import serve
from lambdas.events import read_request
from lambdas.intake import read_picture
from lambdas.predictions import Predictions
from lambdas.start import Model
from shutterless.settings import Settings

SAMPLE = Path(__file__).parents[2] / "events" / "predict.json"


@pytest.fixture
def picture(tmp_path, draw, encode) -> Path:
    path = tmp_path / "a picture.png"
    path.write_bytes(encode(draw(), "PNG"))
    return path


@pytest.fixture
def written(capsys):
    """`written(...)`: the event that the command prints."""
    def written(*arguments: object):
        capsys.readouterr()
        assert main(["event", *map(str, arguments)]) == 0
        return json.loads(capsys.readouterr().out)
    return written


@pytest.mark.parametrize("kind", ["rest", "http", "url", "bare"])
def test_each_kind_is_answered_with_the_picture_s_label(written, picture, models_dir, kind):
    model = Model(Settings(model="colours", models_dir=models_dir))
    response = serve(written(picture, "--kind", kind, "--query", "top=2"), None, Predictions(model).door())
    assert response["statusCode"] == 200, response["body"]
    assert len(json.loads(response["body"])["top"]) == 2


@pytest.mark.parametrize("kind", ["rest", "http", "url"])
def test_another_route_may_be_asked_for(written, picture, kind):
    event = written(picture, "--kind", kind, "--route", "/upload-image")
    request = read_request(event, None, bare_path="/predict", request_id="")
    assert (request.method, request.path, request.headers["content-type"]) == ("POST", "/upload-image", "image/png")
    assert read_picture(request, 100_000).picture == picture.read_bytes()


def test_s3_s_event_names_the_object_inside_of_a_message(written, picture):
    message, = written(picture, "--kind", "s3", "--bucket", "pictures")["Records"]
    record, = json.loads(message["body"])["Records"]
    assert (record["eventSource"], record["s3"]["bucket"]["name"]) == ("aws:s3", "pictures")
    assert unquote_plus(record["s3"]["object"]["key"]).startswith("uploads/classify/")
    assert record["s3"]["object"]["size"] == picture.stat().st_size


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere.jpg"], "no file"), (["{picture}", "--route", "predict"], "--route: expected a path"), (["{large}"], "--kind s3")])
def test_what_makes_no_event_gets_a_sentence(picture, tmp_path, capsys, arguments, said):
    (tmp_path / "large").write_bytes(bytes(4_500_001))
    names = {"picture": picture, "large": tmp_path / "large"}
    assert main(["event", *(argument.format(**names) for argument in arguments)]) == 1
    printed = capsys.readouterr()
    assert (said in printed.err, printed.out) == (True, "")


def test_the_sample_is_what_the_command_writes_of_its_picture(written, tmp_path):
    sample = json.loads(SAMPLE.read_text())
    (tmp_path / "river.jpg").write_bytes(base64.b64decode(sample["body"]))
    assert written(tmp_path / "river.jpg") == sample


def test_the_sample_s_picture_is_a_river_to_the_model_that_ships():
    model = Model(Settings())
    answer = json.loads(serve(json.loads(SAMPLE.read_text()), None, Predictions(model).door())["body"])
    assert answer["label"] == "River"
