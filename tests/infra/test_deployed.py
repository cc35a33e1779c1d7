"""A stage as it stands in the account, on an emulator of it: what it tells, and its end."""

import json
import os

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
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
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


def log_in(name: str) -> str:
    """Make a role, and let API Gateway log in it; its ARN."""
    role = boto3.client("iam", region_name="us-east-1").create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    boto3.client("apigateway", region_name="us-east-1").update_account(
        patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": role}])
    return str(role)


def test_the_role_that_other_apis_have_come_to_log_in_outlives_the_last_stage(account, capsys):
    stack(account, "shutterless-dev-data", Uploads=BUCKET)
    stack(account, "shutterless-account", Shared=BUCKET)
    log_in("shutterless-account-ApiLogs-1A2B")
    boto3.client("apigateway", region_name="us-east-1").create_rest_api(name="somebody else's")
    assert main(["destroy", "dev"]) == 0
    assert names(account) == {"shutterless-account"}
    assert "logs of other APIs in us-east-1: the stack shutterless-account" in capsys.readouterr().out


@pytest.mark.parametrize("role", ["shutterless-account-ApiLogs-1A2B", "somebody-else-s"])
def test_a_role_that_no_other_api_logs_in_goes_with_the_last_stage(account, role):
    stack(account, "shutterless-account", Shared=BUCKET)
    log_in(role)
    if role == "somebody-else-s":
        boto3.client("apigateway", region_name="us-east-1").create_rest_api(name="somebody else's")
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


def prod_with_data(account) -> tuple[str, str, str]:
    """prod, as it stands: its bucket with a picture, its database, and the snapshot that CloudFormation will make of that."""
    stack(account, "shutterless-prod-data", Uploads=BUCKET | {"DeletionPolicy": "Retain"}, Models=BUCKET,
          Database=DATABASE | {"DeletionPolicy": "Snapshot"})
    stack(account, "shutterless-prod-site", Page=BUCKET)
    told, s3 = Deployed("prod").outputs(), boto3.client("s3", region_name="us-east-1")
    for name in ("Uploads", "Models"):
        s3.put_object(Bucket=told[f"{name}Bucket"], Key="uploads/classify/a.png", Body=b"picture")
    rds, snapshot = boto3.client("rds", region_name="us-east-1"), "shutterless-prod-data-snapshot-database-1abc"
    rds.create_db_snapshot(DBInstanceIdentifier=told["DatabaseIdentifier"], DBSnapshotIdentifier=snapshot)
    rds.create_db_instance(DBInstanceIdentifier="others", Engine="postgres", DBInstanceClass="db.t4g.micro")
    rds.create_db_snapshot(DBInstanceIdentifier="others", DBSnapshotIdentifier="of-others")
    return told["UploadsBucket"], told["DatabaseIdentifier"], snapshot


def stays(bucket: str, snapshot: str) -> list[str]:
    return ["prod is gone. What stays:", f"  pictures: s3://{bucket}",
            f"  results: the snapshot {snapshot} (aws rds describe-db-snapshots --region us-east-1 "
            f"--db-snapshot-identifier {snapshot})"]


def test_prod_keeps_pictures_and_a_snapshot_and_says_where(account, capsys):
    bucket, _, snapshot = prod_with_data(account)
    assert main(["destroy", "prod", "--confirm", "prod"]) == 0
    assert capsys.readouterr().out.splitlines() == stays(bucket, snapshot)
    kept = boto3.client("s3", region_name="us-east-1").get_object(Bucket=bucket, Key="uploads/classify/a.png")
    assert kept["Body"].read() == b"picture"
    assert names(account) == set()


def test_a_destroy_that_broke_off_behind_the_data_still_says_what_stays(account, capsys):
    bucket, _, snapshot = prod_with_data(account)
    Deployed("prod")._delete("shutterless-prod-data", keeps_data=True, say=lambda line: None)
    assert main(["destroy", "prod", "--confirm", "prod"]) == 0
    assert capsys.readouterr().out.splitlines() == stays(bucket, snapshot)
    assert main(["destroy", "prod", "--confirm", "prod"]) == 0
    assert capsys.readouterr().out.splitlines() == stays(bucket, snapshot), "and again, when no stack is left"


def test_of_aurora_the_cluster_s_snapshot_is_named(account, capsys):
    rds = boto3.client("rds", region_name="us-east-1")
    cluster = "shutterless-prod-data-databasecluster-1abc"
    rds.create_db_cluster(DBClusterIdentifier=cluster, Engine="aurora-postgresql", MasterUsername="owner",
                          MasterUserPassword="only-in-the-emulator")
    rds.create_db_cluster_snapshot(DBClusterIdentifier=cluster, DBClusterSnapshotIdentifier="the-last")
    assert main(["destroy", "prod", "--confirm", "prod"]) == 0
    assert ("aws rds describe-db-cluster-snapshots --region us-east-1 --db-cluster-snapshot-identifier the-last"
            in capsys.readouterr().out)
