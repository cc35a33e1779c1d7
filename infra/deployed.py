"""A stage as it stands in the account: what its stacks tell, its page, and its end."""

from __future__ import annotations

import json
import mimetypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import Request
from uuid import uuid4

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    WaiterError,
)

from shutterless.errors import BadSettings

ORDER = ("watch", "api", "service", "data", "site", "registry")  # the last stands on none of the others
SHARED = "shutterless-account"  # for as long as any stage is there
SNAPSHOTS = (("db", "DB", "DBInstanceIdentifier"), ("db-cluster", "DBCluster", "DBClusterIdentifier"))  # as the API names them
WAIT = {"Delay": 5, "MaxAttempts": 720}  # network interfaces of functions take AWS up to 40 minutes
WITHOUT_CREDENTIALS = (NoCredentialsError, NoRegionError, PartialCredentialsError, ProfileNotFound, CredentialRetrievalError,
                       SSOError, TokenRetrievalError)
FUNCTION_S = 120  # the longest that an answer is waited for
FOR_A_YEAR, NEVER = "public, max-age=31536000, immutable", "no-cache"
Say = Callable[[str], object]


class Deployed:
    """Stage `name` in the account and region that the environment names."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def region(self) -> str:
        return self.chosen_region or "us-east-1"

    @property
    def chosen_region(self) -> str | None:
        """As CDK's command line chooses it; botocore itself does not know AWS_REGION."""
        return os.environ.get("AWS_REGION") or self._session.region_name

    def account(self) -> str:
        """Raises BadSettings where there are no credentials, or wrong ones."""
        with explained():
            return str(self.client("sts").get_caller_identity()["Account"])

    def told(self) -> dict[str, str]:
        """The outputs of all stacks; {} where there are none."""
        return {each["OutputKey"]: each["OutputValue"] for stack in self._stacks() for each in stack.get("Outputs", [])}

    def outputs(self) -> dict[str, str]:
        """Of all stacks. Raises BadSettings where there are none."""
        told = self.told()
        if not told:
            raise BadSettings(f"There is no stage {self.name} in {self.region}. Deploy it: make deploy STAGE={self.name}.")
        return told

    def invoke(self, function: str, event: dict[str, Any]) -> dict[str, Any]:
        """What a function answers to an event. Raises BadSettings where it ends without an answer."""
        patient = Config(read_timeout=FUNCTION_S, retries={"total_max_attempts": 1})  # a second try would not be quicker
        with explained():
            told = self.client("lambda", config=patient).invoke(FunctionName=function, Payload=json.dumps(event).encode())
            answer = json.loads(told["Payload"].read() or b"null")
        if told.get("FunctionError") or not isinstance(answer, dict):
            why = answer.get("errorMessage") if isinstance(answer, dict) else answer
            raise BadSettings(f"The function {function} ended without an answer: {str(why)[:300]}. Its log says more: "
                              f"shutterless logs {self.name}.")
        return answer

    def api_key(self, key_id: str) -> str:
        with explained():
            return str(self.client("apigateway").get_api_key(apiKey=key_id, includeValue=True)["value"])

    def log_role(self) -> str | None:
        """In which API Gateway logs for all APIs of this account and region, if there is one."""
        with explained():
            role = self.client("apigateway").get_account().get("cloudwatchRoleArn")
            return role if role and self._has_role(role) else None

    def log_role_of_others(self) -> str | None:
        """The same, where it is none that Shutterless made."""
        role = self.log_role()
        return role if role and not is_own_role(role) else None

    def _has_role(self, arn: str) -> bool:
        """An account goes on naming a role that was deleted. Who may not ask takes it for there."""
        iam = self.client("iam")
        try:
            iam.get_role(RoleName=arn.rpartition("/")[2])
        except iam.exceptions.NoSuchEntityException:
            return False
        except ClientError:
            return True
        return True

    def sign(self, request: Request) -> None:
        """Sign a request to an API that asks for it, in the caller's own name (AWS Signature Version 4)."""
        with explained():
            credentials = self._session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            signed = AWSRequest(request.get_method(), request.full_url, dict(request.header_items()), request.data)
            SigV4Auth(credentials.get_frozen_credentials(), "execute-api", self.region).add_auth(signed)
        for name, value in signed.headers.items():
            request.add_header(name, value)

    def has_page(self, bucket: str) -> bool:
        with explained():
            return bool(self.client("s3").list_objects_v2(Bucket=bucket, Prefix="index.html", MaxKeys=1)["KeyCount"])

    def publish_page(self, folder: Path, bucket: str, distribution_id: str, *, api_url: str) -> None:
        """The files with hashes in their names first, index.html last, so that a page never asks for what is not there yet."""
        files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == "index.html")
        with explained():
            self._put(bucket, "config.json", json.dumps({"api": api_url}).encode(), NEVER)
            for file in files:
                key = file.relative_to(folder).as_posix()
                self._put(bucket, key, file.read_bytes(), FOR_A_YEAR if key.startswith("assets/") else NEVER)
            self.client("cloudfront").create_invalidation(DistributionId=distribution_id, InvalidationBatch={
                "Paths": {"Quantity": 1, "Items": ["/*"]}, "CallerReference": uuid4().hex})

    def _put(self, bucket: str, key: str, content: bytes, cache: str) -> None:
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=content, ContentType=kind, CacheControl=cache)

    def destroy(self, *, keeps_data: bool, say: Say) -> list[str]:
        """Delete every stack of the stage, and, with the last stage, what all share and nobody else needs. Returns what stays, a
        line each."""
        there, kept = self._names(), list[str]()
        with explained():
            for name in [f"shutterless-{self.name}-{part}" for part in ORDER]:
                if name in there:
                    self._delete(name, keeps_data=keeps_data, say=say)
            others = self._names()
            if SHARED in others and not any(other.startswith("shutterless-") and other != SHARED for other in others):
                if self._is_needed_by_others():
                    kept = [f"logs of other APIs in {self.region}: the stack {SHARED}, in whose role API Gateway writes them"]
                else:
                    self._delete(SHARED, keeps_data=False, say=say)
            return kept + (self._kept() if keeps_data else [])

    def _is_needed_by_others(self) -> bool:
        """Whether other APIs log in the role that our stages share."""
        if not is_own_role(self.log_role() or ""):
            return False
        kinds = {each["ProtocolType"] for each in self.client("apigatewayv2").get_apis().get("Items", [])}
        return "WEBSOCKET" in kinds or bool(self.client("apigateway").get_rest_apis(limit=1).get("items"))

    def _delete(self, stack: str, *, keeps_data: bool, say: Say) -> None:
        say(f"Deleting {stack}")
        cloudformation = self.client("cloudformation")
        if cloudformation.describe_stacks(StackName=stack)["Stacks"][0].get("EnableTerminationProtection"):
            cloudformation.update_termination_protection(StackName=stack, EnableTerminationProtection=False)
        for each in self._resources(stack):
            if each["ResourceType"] == "AWS::S3::Bucket" and not (keeps_data and each["LogicalResourceId"].startswith("Uploads")):
                self._empty(each["PhysicalResourceId"])
            if each["ResourceType"] in ("AWS::RDS::DBInstance", "AWS::RDS::DBCluster"):
                self._unprotect(each["ResourceType"], each["PhysicalResourceId"])
        cloudformation.delete_stack(StackName=stack)
        try:
            cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack, WaiterConfig=WAIT)
        except WaiterError as error:
            raise BadSettings(f"{stack} could not be deleted: {self._why(stack)}. Mend that, and destroy again.") from error

    def _empty(self, bucket: str) -> None:
        """All versions: CloudFormation deletes no bucket that holds anything."""
        s3 = self.client("s3")
        try:
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                listed = [{"Key": each["Key"], "VersionId": each["VersionId"]}
                          for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, [])]
                if listed:
                    s3.delete_objects(Bucket=bucket, Delete={"Objects": listed, "Quiet": True})
        except s3.exceptions.NoSuchBucket:  # an earlier destroy broke off behind it
            return

    def _unprotect(self, kind: str, database: str) -> None:
        rds = self.client("rds")
        if kind.endswith("Cluster"):
            rds.modify_db_cluster(DBClusterIdentifier=database, DeletionProtection=False, ApplyImmediately=True)
        elif "DBClusterIdentifier" not in rds.describe_db_instances(DBInstanceIdentifier=database)["DBInstances"][0]:
            rds.modify_db_instance(DBInstanceIdentifier=database, DeletionProtection=False, ApplyImmediately=True)

    def _kept(self) -> list[str]:
        """What the account holds under the names that CloudFormation gave. A destroy that broke off has deleted the stacks that
        could tell."""
        begins, rds = f"shutterless-{self.name}-data-", self.client("rds")
        buckets = [each["Name"] for each in self.client("s3").list_buckets()["Buckets"]]
        snapshots = [(kind, each[f"{known}SnapshotIdentifier"])
                     for kind, known, of in SNAPSHOTS
                     for page in rds.get_paginator(f"describe_{kind.replace('-', '_')}_snapshots").paginate(SnapshotType="manual")
                     for each in page[f"{known}Snapshots"] if each[of].startswith(begins)]
        return [*(f"pictures: s3://{name}" for name in buckets if name.startswith(f"{begins}uploads")),
                *(f"results: the snapshot {name} (aws rds describe-{kind}-snapshots --region {self.region} "
                  f"--{kind}-snapshot-identifier {name})" for kind, name in snapshots)]

    def _resources(self, stack: str) -> list[Any]:
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        return [each for page in pages for each in page["StackResourceSummaries"]
                if each["ResourceStatus"] != "DELETE_COMPLETE" and each.get("PhysicalResourceId")]

    def _why(self, stack: str) -> str:
        events = self.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
        return next((f"{each['LogicalResourceId']}: {each.get('ResourceStatusReason', '')}".rstrip(". ") for each in events
                     if each["ResourceStatus"] == "DELETE_FAILED"), "CloudFormation's events say why")

    def _stacks(self) -> list[Any]:
        return [stack for stack in self._all() if str(stack["StackName"]).startswith(f"shutterless-{self.name}-")]

    def _names(self) -> list[str]:
        return [str(stack["StackName"]) for stack in self._all()]

    def _all(self) -> list[Any]:
        with explained():
            pages = self.client("cloudformation").get_paginator("describe_stacks").paginate()
            return [stack for page in pages for stack in page["Stacks"] if stack["StackStatus"] != "DELETE_COMPLETE"]

    @cached_property
    def _session(self) -> Any:
        return boto3.Session()

    def client(self, service: str, **settings: Any) -> Any:
        """boto3's, in the stage's region."""
        return self._session.client(service, region_name=self.region, **settings)


def is_own_role(role: str) -> bool:
    """Whether this ARN is of the role that all stages share."""
    return f":role/{SHARED}-" in role


@contextmanager
def explained() -> Iterator[None]:
    """Turn botocore's errors into BadSettings, with what to do."""
    try:
        yield
    except WITHOUT_CREDENTIALS as error:
        raise BadSettings("Expected credentials for AWS, got none that can be used. Set them up: aws configure, or "
                          "AWS_PROFILE.") from error
    except ClientError as error:
        told = error.response.get("Error", {})
        raise BadSettings(f"AWS refuses {error.operation_name}: {told.get('Code')}, {told.get('Message')}. Look at your "
                          "credentials and their rights, and run the same again.") from error
    except BotoCoreError as error:
        raise BadSettings("AWS does not answer. Look at the network and the region, and run the same again.") from error
