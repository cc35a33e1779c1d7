"""A stage as it stands in the account, on an emulator of it: what it tells, and its end."""

import json

import boto3
import pytest
from moto import mock_aws

from cli.main import main
from infra.deployed import Deployed
from shutterless.errors import BadSettings

BUCKET = {"Type": "AWS::S3::Bucket", "Properties": {"VersioningConfiguration": {"Status": "Enabled"}}}
DATABASE = {"Type": "AWS::RDS::DBInstance", "Properties": {
    "Engine": "postgres", "DBInstanceClass": "db.t4g.micro", "AllocatedStorage": "20", "MasterUsername": "shutterless_owner",
    "MasterUserPassword": "only-in-the-emulator", "DeletionProtection": True}}


@pytest.fixture
def account(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield boto3.client("cloudformation", region_name="us-east-1")


def stack(account, name, **resources):
    outputs = {f"{name}{'Bucket' if 'S3' in each['Type'] else 'Identifier'}": {"Value": {"Ref": name}}
               for name, each in resources.items()}
    account.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources, "Outputs": outputs}))


def names(account):
    return {each["StackName"] for each in account.describe_stacks()["Stacks"]}


def test_the_outputs_of_all_stacks_of_a_stage_are_told_together(account):
    stack(account, "shutterless-dev-data", Uploads=BUCKET)
    stack(account, "shutterless-dev-site", Page=BUCKET)
    stack(account, "shutterless-prod-site", Other=BUCKET)
    assert set(Deployed("dev").outputs()) == {"UploadsBucket", "PageBucket"}


def test_a_stage_that_is_not_there_is_answered_with_the_command(account):
    with pytest.raises(BadSettings, match="There is no stage dev in us-east-1"):
        Deployed("dev").outputs()


def test_destroy_empties_buckets_with_all_versions_and_leaves_nothing_but_other_stages(account, capsys):
    stack(account, "shutterless-dev-data", Uploads=BUCKET)
    stack(account, "shutterless-dev-registry", Artifacts=BUCKET)
    stack(account, "shutterless-account", Shared=BUCKET)
    stack(account, "shutterless-staging-data", Uploads=BUCKET)
    s3 = boto3.client("s3", region_name="us-east-1")
    bucket = Deployed("dev").outputs()["UploadsBucket"]
    for content in (b"first", b"second"):
        s3.put_object(Bucket=bucket, Key="uploads/classify/a.png", Body=content)
    s3.delete_object(Bucket=bucket, Key="uploads/classify/a.png")
    assert main(["destroy", "dev"]) == 0
    assert "dev is gone, and nothing of it stays." in capsys.readouterr().out
    assert names(account) == {"shutterless-account", "shutterless-staging-data"}


def test_what_all_stages_share_goes_with_the_last_of_them(account):
    stack(account, "shutterless-dev-data", Uploads=BUCKET)
    stack(account, "shutterless-account", Shared=BUCKET)
    assert main(["destroy", "dev"]) == 0
    assert names(account) == set()


def test_destroying_what_is_not_there_is_no_error(account, capsys):
    assert main(["destroy", "dev"]) == 0


@pytest.mark.parametrize("words", [["destroy", "prod"], ["destroy", "prod", "--confirm", "dev"]])
def test_prod_is_not_destroyed_before_its_name_is_said_again(account, capsys, words):
    stack(account, "shutterless-prod-data", Uploads=BUCKET)
    assert main(words) == 1
    assert "make destroy STAGE=prod CONFIRM=prod" in capsys.readouterr().err
    assert names(account) == {"shutterless-prod-data"}


def test_prod_keeps_pictures_and_a_snapshot_and_says_where(account, capsys):
    stack(account, "shutterless-prod-data", Uploads=BUCKET | {"DeletionPolicy": "Retain"}, Models=BUCKET,
          Database=DATABASE | {"DeletionPolicy": "Snapshot"})
    stack(account, "shutterless-prod-site", Page=BUCKET)
    s3 = boto3.client("s3", region_name="us-east-1")
    bucket, models = (Deployed("prod").outputs()[f"{name}Bucket"] for name in ("Uploads", "Models"))
    for name in (bucket, models):
        s3.put_object(Bucket=name, Key="uploads/classify/a.png", Body=b"picture")
    database = Deployed("prod").outputs()["DatabaseIdentifier"]
    assert main(["destroy", "prod", "--confirm", "prod"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "prod is gone. What stays:", f"  pictures: s3://{bucket}",
        f"  results: a last snapshot of the database {database} (aws rds describe-db-snapshots --snapshot-type manual)"]
    assert s3.get_object(Bucket=bucket, Key="uploads/classify/a.png")["Body"].read() == b"picture"
    assert names(account) == set()


def test_deploy_refuses_without_a_page(capsys):
    assert main(["deploy", "dev"]) == 1
    assert "ARGS=--without-page" in capsys.readouterr().err
