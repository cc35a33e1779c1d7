"""Every function answers, in its image, what tools that are not ours send."""

import base64
import json
import shutil
import subprocess
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from shutterless.bundles import find_bundle, read_bundle
from shutterless.classifier import Classifier
from tests.docker.containers import Function, FunctionError
from tests.lambdas.driver import s3_event, s3_record, sqs_event

pytestmark = [pytest.mark.needs("docker", "postgres"), pytest.mark.timeout(900)]  # the first test builds the images

ROOT = Path(__file__).parents[2]
WITH_KEY = "shutterless-inference-test:with-key"


def recorded(name: str) -> dict:
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(read_bundle(find_bundle("eurosat-lite0", ROOT / "models")))


@pytest.fixture(scope="module")
def tile(draw, encode) -> bytes:
    return encode(draw((64, 64), seed=7), "JPEG")


@pytest.fixture(scope="module")
def predict(start):
    return start("inference", "lambdas.predict.handler")


@pytest.fixture(scope="module")
def upload(start_in_vpc):
    return start_in_vpc("upload")


@pytest.fixture(scope="module")
def infer(start_in_vpc):
    return start_in_vpc("infer")


@pytest.fixture(scope="module")
def query(start_in_vpc):
    return start_in_vpc("query")


@pytest.mark.parametrize("event", ["predict", "predict-rest", "predict-http"])
def test_predict_answers_recorded_events_without_credentials(predict, event):
    status, answer = predict.ask(recorded(event))
    assert status == 200
    assert answer["model"]["name"] == "eurosat-lite0"
    assert sum(one["confidence"] for one in answer["top"]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [lambda text: {"image_b64": text}, lambda text: {"body": text, "isBase64Encoded": True}])
def test_predict_takes_what_people_write_by_hand_and_answers_as_the_core_does(predict, classifier, tile, shape):
    status, answer = predict.ask(shape(base64.b64encode(tile).decode()))
    direct = classifier.predict(tile).prediction
    assert (status, answer["label"]) == (200, direct.label)
    assert answer["confidence"] == pytest.approx(direct.confidence, abs=1e-5)


def test_only_the_first_answer_of_a_container_says_that_it_was_cold(start, tile):
    predict = start("inference", "lambdas.predict.handler")
    event = {"image_b64": base64.b64encode(tile).decode()}
    assert [predict.ask(event)[1]["cold_start"] for _ in range(3)] == [True, False, False]
    assert predict.log().count("INIT REPORT(durationMs") == 1


def test_a_container_outlives_what_no_function_understands(predict, tile):
    assert predict.ask({"nothing": 1})[0] == 422
    assert predict.ask({"image_b64": "AAAA"})[0] == 400
    with pytest.raises(FunctionError):  # answered, it would count as delivered
        predict.invoke(recorded("infer-sqs"))
    assert predict.ask({"image_b64": base64.b64encode(tile).decode()})[0] == 200


def test_an_upload_becomes_a_result_through_all_functions(upload, infer, query, cloud, classifier):
    event = recorded("upload-rest")
    status, receipt = upload.ask(event)
    assert (status, receipt["status"]) == (202, "pending")
    stored = cloud.s3.get_object(Bucket=receipt["bucket"], Key=receipt["s3_key"])
    picture = stored["Body"].read()
    assert picture == base64.b64decode(json.loads(base64.b64decode(event["body"]))["image_base64"])
    assert stored["ContentType"] == "image/jpeg"

    record = s3_record(receipt["bucket"], receipt["s3_key"], stored["VersionId"])
    assert infer.invoke(sqs_event(s3_event(record))) == {"batchItemFailures": []}

    asked = recorded("query-rest") | {"queryStringParameters": {"request_id": receipt["request_id"]}}
    asked |= {"multiValueQueryStringParameters": {"request_id": [receipt["request_id"]]}}
    status, found = query.ask(asked)
    direct = classifier.predict(picture).prediction
    assert status == 200
    assert (found["results"][0]["status"], found["results"][0]["predicted_label"]) == ("done", direct.label)
    assert found["results"][0]["confidence"] == pytest.approx(direct.confidence, abs=1e-5)


def test_a_recorded_message_about_an_object_of_others_is_answered(infer, database, cloud, tile):
    notice = json.loads(recorded("infer-sqs")["Records"][0]["body"])["Records"][0]["s3"]
    cloud.s3.put_object(Bucket=notice["bucket"]["name"], Key=notice["object"]["key"], Body=tile)
    assert infer.invoke(recorded("infer-sqs")) == {"batchItemFailures": []}
    rows = database.run(f"SELECT status FROM results WHERE object_key = '{notice['object']['key']}'")
    assert rows == [("done",)]


def test_s3_may_also_invoke_infer_itself(infer, database, cloud, tile):
    event = recorded("infer-s3")
    key = f"uploads/classify/{uuid.uuid4()}.jpg"
    event["Records"][0]["s3"]["object"]["key"] = key
    cloud.s3.put_object(Bucket="uploads", Key=key, Body=tile)
    infer.invoke(event)
    assert database.run(f"SELECT status FROM results WHERE object_key = '{key}'") == [("done",)]


def test_query_lists_and_counts(query, upload, infer, cloud):
    status, page = query.ask(recorded("query-rest"))
    assert (status, page["count"]) == (200, len(page["results"]))
    status, stats = query.ask(recorded("query-rest") | {"path": "/stats", "queryStringParameters": None,
                                                        "multiValueQueryStringParameters": None})
    assert (status, type(stats["total_predictions"])) == (200, int)


@pytest.mark.parametrize("request_type", ["Create", "Update", "Delete"])
def test_migrate_answers_cloudformation(start, database, host, request_type):
    told = []

    class CloudFormation(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer((host.listen, 0), CloudFormation)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    migrate = start("api", "lambdas.migrate.handler",
                    {"DATABASE_URL": database.url("postgres"), "SHUTTERLESS_ROLE_PASSWORD": "secret"})
    migrate.invoke(recorded("migrate-cloudformation") | {
        "RequestType": request_type, "ResponseURL": f"http://{host.address}:{server.server_port}/answer"})
    server.shutdown()
    server.server_close()
    assert [(answer["Status"], answer["RequestId"]) for answer in told] == [("SUCCESS", "unique id for this create request")]


def test_certificates_that_the_image_lacks_are_asked_for_in_the_log(start_in_vpc):
    upload = start_in_vpc("upload", SHUTTERLESS_DATABASE_CA="/var/task/database-ca.pem")
    assert upload.ask(recorded("upload-rest"))[0] == 500
    assert "Build the image with DB_CA=" in upload.log()

@pytest.fixture(scope="module")
def with_key(tmp_path_factory, base_image, make_bundle):
    """An image of the inference Dockerfile with a public key in it and, baked in, a bundle that its owner signed."""
    from cli.images import docker_platform, fetch_base
    from model_export.sign import sign

    project = tmp_path_factory.mktemp("project")
    for name in ("docker", "lambdas", "requirements", "shutterless"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dockerignore", "LICENSE", "LICENSE-Apache-2.0.txt", "NOTICE"):
        shutil.copy(ROOT / name, project)
    key = ec.generate_private_key(ec.SECP256R1())
    (project / "private.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (project / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    sign(read_bundle(make_bundle(project / "models", name="signed")), project / "private.key", lambda: "")
    arguments = {"BASE_IMAGE": fetch_base(base_image), "PLATFORM": docker_platform(), "MODEL": "signed/1",
                 "SIGNING_KEY": "public.pem"}
    options = [word for item in arguments.items() for word in ("--build-arg", "=".join(item))]
    subprocess.run(["docker", "build", "--quiet", "--force-rm", "--file", "docker/inference.Dockerfile", "--tag", WITH_KEY,
                    *options, "."], cwd=project, check=True)
    yield WITH_KEY
    subprocess.run(["docker", "rmi", "--force", WITH_KEY], check=True)


def test_a_function_with_a_key_answers_by_a_signed_bundle_and_refuses_another(with_key, docker_client, make_bundle, tmp_path):
    event = recorded("predict")
    unsigned = make_bundle(tmp_path, name="unsigned")
    for folder in (tmp_path, *tmp_path.rglob("*")):
        folder.chmod(0o755)
    for options, expected in [({}, 200), ({"environment": {"MODEL_URI": "/models/unsigned/1"},
                                           "volumes": {str(unsigned.parents[1]): {"bind": "/models", "mode": "ro"}}}, 503)]:
        function = Function(docker_client, with_key, "lambdas.predict.handler", **options)
        try:
            assert function.ask(event)[0] == expected
            assert ("The bundle is not signed" in function.log()) == (expected == 503)
        finally:
            function.remove()
