"""shutterless deploy, with everything but CDK's command line and AWS: the account is an emulator's, the API our own server."""

import json
import os
import re
import stat
import subprocess
from dataclasses import replace
from types import SimpleNamespace
from urllib.request import Request

import boto3
import pytest
from moto import mock_aws

from cli.main import main
from infra.deployed import Deployed
from infra.page import page_of_project
from infra.smoke import try_it
from infra.sources import ROOT
from infra.stages import STAGES, Aurora, Database
from shutterless.errors import Unavailable
from shutterless.settings import Settings
from tests.onprem.conftest import served

KEY = "the-key-of-a-client-of-the-api"


@pytest.fixture(scope="module")
def api(models_dir, tmp_path_factory):
    """Address of a server with the API's contract."""
    with served(Settings(model="colours", models_dir=models_dir, var_dir=tmp_path_factory.mktemp("var"), api_keys=(KEY,))) as url:
        yield url


@pytest.fixture
def account(api, monkeypatch, tmp_path):
    """With a stage dev that is deployed already. calls: what CDK's command line was called with; bucket: the page's."""
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, script in {"docker": "echo linux/amd64", "cdk": f'echo "$@" >> {tmp_path}/calls'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("cli.cdk.COMMAND", tmp_path / "cdk")
    with mock_aws():
        key = boto3.client("apigateway", region_name="us-east-1").create_api_key(name="first", value=KEY, enabled=True)
        told = {"Url": f"{api}/", "KeyId": key["id"], "PageUrl": "https://page.example.org", "DistributionId": distribution(),
                "DashboardUrl": "https://dashboard.example.org", "DatabaseKind": "instance", "SigningKey": "sha256:ab12"}
        outputs = {name: {"Value": value} for name, value in told.items()} | {"PageBucket": {"Value": {"Ref": "Page"}}}
        boto3.client("cloudformation", region_name="us-east-1").create_stack(
            StackName="shutterless-dev-site", TemplateBody=json.dumps(
                {"Resources": {"Page": {"Type": "AWS::S3::Bucket"}}, "Outputs": outputs}))
        yield SimpleNamespace(calls=tmp_path / "calls", bucket=Deployed("dev").outputs()["PageBucket"])


def distribution() -> str:
    origin = {"Id": "page", "DomainName": "page.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}
    made = boto3.client("cloudfront", region_name="us-east-1").create_distribution(DistributionConfig={
        "CallerReference": "x", "Comment": "", "Enabled": True, "Origins": {"Quantity": 1, "Items": [origin]},
        "DefaultCacheBehavior": {"TargetOriginId": "page", "ViewerProtocolPolicy": "redirect-to-https", "MinTTL": 0,
                                 "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}}}})
    return str(made["Distribution"]["Id"])


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A project whose page is built."""
    files = {"index.html": "<!doctype html>", "assets/main-1f2e.js": "1", "assets/main-1f2e.css": "a{}", "icon.svg": "<svg/>"}
    for name, text in files.items():
        (tmp_path / "project/ui/dist" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project/ui/dist" / name).write_text(text)
    page = page_of_project(tmp_path / "project")
    monkeypatch.setattr("infra.page.page_of_project", lambda: page)
    return page


@pytest.fixture
def unbuilt(tmp_path, monkeypatch):
    """A project whose page is not built, whatever the checkout of these tests holds."""
    page = page_of_project(tmp_path / "project")
    monkeypatch.setattr("infra.page.page_of_project", lambda: page)
    return page


def stored(bucket: str) -> dict[str, tuple[str, str, bytes]]:
    """Key -> type, how long it is kept by browsers, content."""
    s3 = boto3.client("s3", region_name="us-east-1")
    found = {each["Key"]: s3.get_object(Bucket=bucket, Key=each["Key"])
             for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}
    return {key: (each["ContentType"], each["CacheControl"], each["Body"].read()) for key, each in found.items()}


def test_a_deploy_publishes_the_page_tries_the_api_and_says_how_it_is_used(account, built, api, capfd):
    assert main(["deploy", "dev", "--model", "mine"]) == 0
    assert "deploy --all --require-approval never --context stage=dev --context model=mine" in account.calls.read_text()
    files = stored(account.bucket)
    assert files.keys() == {"index.html", "config.json", "assets/main-1f2e.js", "assets/main-1f2e.css", "icon.svg"}
    assert json.loads(files["config.json"][2]) == {"api": f"{api}/"}
    assert files["assets/main-1f2e.js"][:2] == ("text/javascript", "public, max-age=31536000, immutable")
    assert files["index.html"][:2] == ("text/html", "no-cache")
    invalidations = boto3.client("cloudfront", region_name="us-east-1").list_invalidations(
        DistributionId=Deployed("dev").outputs()["DistributionId"])
    assert invalidations["InvalidationList"]["Quantity"] == 1
    told = capfd.readouterr()
    assert "dev took bundles alone that are signed (sha256:ab12). This deploy names no SIGNING_KEY" in told.err
    for tried in ("GET /health: 200", "GET /results without a key: 403", "POST /predict: 200", "POST /upload-image: 202",
                  "its result", "DELETE /results/{request_id}: 204"):
        assert f"ok  {tried}" in told.err
    lines = dict(line.split(maxsplit=1) for line in told.out.splitlines() if line)
    assert lines.keys() == {"API", "Key", "Dashboard", "Page", "curl"}
    assert lines["API"] == api
    assert lines["Key"].startswith("aws apigateway get-api-key --region us-east-1 --include-value")
    assert lines["curl"].endswith(f"--data-binary @tile.jpg {api}/predict")
    assert KEY not in told.out + told.err


def test_the_role_in_which_api_gateway_logs_for_others_stays(account, built, capfd):
    clients = {name: boto3.client(name, region_name="us-east-1") for name in ("iam", "apigateway")}
    role = clients["iam"].create_role(RoleName="others", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    clients["apigateway"].update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": role}])
    assert main(["deploy", "dev"]) == 0
    assert f"--context log_role={role} " in account.calls.read_text()
    assert f"API Gateway logs in {role} in this account and region. That is not Shutterless's" in capfd.readouterr().err
    clients["iam"].delete_role(RoleName="others")
    account.calls.unlink()
    assert main(["deploy", "dev"]) == 0
    assert "log_role" not in account.calls.read_text(), "what is gone is replaced"


def test_without_the_built_page_it_refuses_and_names_the_way_around(account, unbuilt, capfd):
    assert main(["deploy", "dev"]) == 1
    said = capfd.readouterr().err
    assert "Expected the built page in ui/dist, got none: what synth takes instead is a placeholder." in said
    assert "make deploy STAGE=dev ARGS=--without-page" in said
    assert not account.calls.exists(), "nothing was deployed"


def test_the_api_alone_gets_the_placeholder_which_replaces_no_page(account, unbuilt):
    assert main(["deploy", "dev", "--without-page"]) == 0
    assert b"its page was not built" in stored(account.bucket)["index.html"][2]
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.put_object(Bucket=account.bucket, Key="index.html", Body=b"page", CacheControl="no-cache")
    assert main(["deploy", "dev", "--without-page"]) == 0
    assert stored(account.bucket)["index.html"][2] == b"page"


def test_another_kind_of_database_is_refused_before_anything_is_deployed(account, built, monkeypatch, capfd):
    monkeypatch.setattr("infra.stages.STAGES", STAGES | {"dev": replace(STAGES["dev"], database=Database(aurora=Aurora()))})
    assert main(["deploy", "dev"]) == 1
    said = capfd.readouterr().err
    assert "dev keeps its results in an RDS instance, and infra/stages.py now says an Aurora cluster." in said
    assert "make destroy STAGE=dev" in said
    assert not account.calls.exists()


def test_a_cdk_that_fails_ends_the_deploy(account, built, capfd):
    (account.calls.parent / "cdk").write_text("#!/bin/sh\nexit 3\n")
    assert main(["deploy", "dev"]) == 1
    assert "cdk deploy failed" in capfd.readouterr().err
    assert stored(account.bucket) == {}


def test_where_the_api_wants_signatures_the_smoke_test_signs_and_so_does_the_curl_line(account, built, monkeypatch, capfd):
    signed: list[Request] = []
    usual = Deployed.sign
    monkeypatch.setattr(Deployed, "sign", lambda self, request: (usual(self, request), signed.append(request)))
    monkeypatch.setattr("infra.stages.STAGES", STAGES | {"dev": replace(STAGES["dev"], iam_auth=True)})
    assert main(["deploy", "dev"]) == 0
    assert {request.get_method() for request in signed} == {"POST", "GET", "DELETE"}
    for request in signed:
        assert request.get_header("Authorization").startswith("AWS4-HMAC-SHA256 Credential=")
        assert "/us-east-1/execute-api/aws4_request" in request.get_header("Authorization")
        assert "x-api-key" in request.get_header("Authorization")
    shown = capfd.readouterr().out
    assert 'eval "$(aws configure export-credentials --format env)"' in shown, "the keys of a profile are in no variable"
    assert "curl --aws-sigv4 aws:amz:us-east-1:execute-api --user" in shown


def test_an_api_that_does_not_work_is_said_with_where_to_look(api, monkeypatch):
    monkeypatch.setattr("infra.smoke.ANSWER_S", 0.0)
    with pytest.raises(Unavailable, match=r"POST /predict: expected 200, got 403.*look at the functions' logs"):
        try_it(api, "a-wrong-key-of-nobody", say=lambda line: None)


@pytest.mark.parametrize("command", ["deploy", "synth"])
def test_a_signing_key_has_to_be_a_file_that_the_build_can_see(command, account, built, capfd, tmp_path):
    (tmp_path / "public.pem").write_text("elsewhere")
    assert main([command, "dev", "--signing-key", str(tmp_path / "public.pem")]) == 1
    assert "--signing-key: expected a .pem file in the project's folder" in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["synth", "deploy"])
def test_the_verb_hands_model_and_key_on(verb):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    shown = subprocess.run(["make", "--dry-run", verb, "STAGE=prod", "MODEL=mine", "SIGNING_KEY=public.pem"], cwd=ROOT,
                           env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"shutterless {verb} 'prod' --model 'mine' \\\s+--signing-key 'public.pem'", shown)


def test_synth_says_what_the_page_is_and_what_the_stage_costs(account, unbuilt, tmp_path, capfd):
    assert main(["synth", "dev", "--out", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr().out
    assert "a placeholder, as there is no ui/dist yet; make deploy refuses it" in shown
    assert "A month in which nobody asks:" in shown
    assert "A million pictures, answered later (POST /upload-image):" in shown
