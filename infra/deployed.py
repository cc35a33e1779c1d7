"""A stage as it stands in the account: what its stacks tell, its page, and its end."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, WaiterError

from shutterless.errors import BadSettings

ORDER = ("watch", "api", "service", "data", "site", "registry")  # the last stands on none of the others
SHARED = "shutterless-account"  # for as long as any stage is there
WAIT = {"Delay": 5, "MaxAttempts": 720}  # network interfaces of functions take AWS up to 40 minutes
FOR_A_YEAR, NEVER = "public, max-age=31536000, immutable", "no-cache"
Say = Callable[[str], object]


class Deployed:
    """Stage `name` in the account and region that the environment names."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def region(self) -> str:
        return str(self._session.region_name or "us-east-1")

    def account(self) -> str:
        """Raises BadSettings where there are no credentials, or wrong ones."""
        with _explained():
            return str(self._client("sts").get_caller_identity()["Account"])

    def outputs(self) -> dict[str, str]:
        """Of all stacks. Raises BadSettings where there are none."""
        told = {each["OutputKey"]: each["OutputValue"] for stack in self._stacks() for each in stack.get("Outputs", [])}
        if not told:
            raise BadSettings(f"There is no stage {self.name} in {self.region}. Deploy it: make deploy STAGE={self.name}.")
        return told

    def api_key(self, key_id: str) -> str:
        with _explained():
            return str(self._client("apigateway").get_api_key(apiKey=key_id, includeValue=True)["value"])

    def publish_page(self, folder: Path, bucket: str, distribution_id: str, *, api_url: str) -> None:
        """The files with hashes in their names first, index.html last, so that a page never asks for what is not there yet."""
        files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == "index.html")
        with _explained():
            self._put(bucket, "config.json", json.dumps({"api": api_url}).encode(), NEVER)
            for file in files:
                key = file.relative_to(folder).as_posix()
                self._put(bucket, key, file.read_bytes(), FOR_A_YEAR if key.startswith("assets/") else NEVER)
            self._client("cloudfront").create_invalidation(DistributionId=distribution_id, InvalidationBatch={
                "Paths": {"Quantity": 1, "Items": ["/*"]}, "CallerReference": uuid4().hex})

    def _put(self, bucket: str, key: str, content: bytes, cache: str) -> None:
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        self._client("s3").put_object(Bucket=bucket, Key=key, Body=content, ContentType=kind, CacheControl=cache)

    def destroy(self, *, keeps_data: bool, say: Say) -> list[str]:
        """Delete every stack of the stage, and what all stages share when this was the last. Returns what stays, a line each."""
        stacks = {str(stack["StackName"]): stack for stack in self._stacks()}
        left = self._kept(stacks) if keeps_data else []
        with _explained():
            for name in [f"shutterless-{self.name}-{part}" for part in ORDER]:
                if name in stacks:
                    self._delete(name, keeps_data=keeps_data, say=say)
            others = self._names()
            if SHARED in others and not any(other.startswith("shutterless-") and other != SHARED for other in others):
                self._delete(SHARED, keeps_data=False, say=say)
        return left

    def _delete(self, stack: str, *, keeps_data: bool, say: Say) -> None:
        say(f"Deleting {stack}")
        cloudformation = self._client("cloudformation")
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
        s3 = self._client("s3")
        try:
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                listed = [{"Key": each["Key"], "VersionId": each["VersionId"]}
                          for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, [])]
                if listed:
                    s3.delete_objects(Bucket=bucket, Delete={"Objects": listed, "Quiet": True})
        except s3.exceptions.NoSuchBucket:  # an earlier destroy broke off behind it
            return

    def _unprotect(self, kind: str, database: str) -> None:
        rds = self._client("rds")
        if kind.endswith("Cluster"):
            rds.modify_db_cluster(DBClusterIdentifier=database, DeletionProtection=False, ApplyImmediately=True)
        elif "DBClusterIdentifier" not in rds.describe_db_instances(DBInstanceIdentifier=database)["DBInstances"][0]:
            rds.modify_db_instance(DBInstanceIdentifier=database, DeletionProtection=False, ApplyImmediately=True)

    def _kept(self, stacks: dict[str, Any]) -> list[str]:
        outputs = {each["OutputKey"]: each["OutputValue"] for stack in stacks.values() for each in stack.get("Outputs", [])}
        return [f"pictures: s3://{outputs[name]}" for name in ("UploadsBucket",) if name in outputs] + [
            f"results: a last snapshot of the database {outputs[name]} (aws rds describe-db-snapshots --snapshot-type manual)"
            for name in ("DatabaseIdentifier",) if name in outputs]

    def _resources(self, stack: str) -> list[Any]:
        pages = self._client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        return [each for page in pages for each in page["StackResourceSummaries"]
                if each["ResourceStatus"] != "DELETE_COMPLETE" and each.get("PhysicalResourceId")]

    def _why(self, stack: str) -> str:
        events = self._client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
        return next((f"{each['LogicalResourceId']}: {each.get('ResourceStatusReason', '')}".rstrip(". ") for each in events
                     if each["ResourceStatus"] == "DELETE_FAILED"), "CloudFormation's events say why")

    def _stacks(self) -> list[Any]:
        return [stack for stack in self._all() if str(stack["StackName"]).startswith(f"shutterless-{self.name}-")]

    def _names(self) -> list[str]:
        return [str(stack["StackName"]) for stack in self._all()]

    def _all(self) -> list[Any]:
        with _explained():
            pages = self._client("cloudformation").get_paginator("describe_stacks").paginate()
            return [stack for page in pages for stack in page["Stacks"] if stack["StackStatus"] != "DELETE_COMPLETE"]

    @cached_property
    def _session(self) -> Any:
        return boto3.Session()

    def _client(self, service: str) -> Any:
        return self._session.client(service, region_name=self.region)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise BadSettings("Expected credentials for AWS, got none. Set them up: aws configure, or AWS_PROFILE.") from error
    except ClientError as error:
        told = error.response.get("Error", {})
        raise BadSettings(f"AWS refuses {error.operation_name}: {told.get('Code')}, {told.get('Message')}. Look at your "
                          "credentials and their rights, and run the same again.") from error
    except BotoCoreError as error:
        raise BadSettings("AWS does not answer. Look at the network and the region, and run the same again.") from error
