"""What exists in the account that was deployed into, asked of AWS's own APIs and of the database: not of CDK's word for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg

from rehearsal.emulator_process import KEY, REGION, Place
from rehearsal.watched import CheckFailed

STATEMENT_MS = 30_000
SETTLED = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


class Account:
    """Reads, and what an operator would do by hand. Nothing is remembered between two deploys: make a new one."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def client(self, service: str) -> Any:
        """boto3's, against the emulator."""
        return boto3.client(service, endpoint_url=self.place.url, region_name=REGION, aws_access_key_id=KEY,  # type: ignore[call-overload]
                            aws_secret_access_key=KEY)

    def pages(self, service: str, call: str, field: str, **words: Any) -> list[Any]:
        """All entries of a list that AWS tells in pages."""
        client = self.client(service)
        if not client.can_paginate(call):
            return list(getattr(client, call)(**words)[field])
        return [entry for page in client.get_paginator(call).paginate(**words) for entry in page.get(field, [])]

    @cached_property
    def stacks(self) -> dict[str, dict[str, Any]]:
        """All that are there, by name, CDK's own toolkit left out."""
        found = self.pages("cloudformation", "describe_stacks", "Stacks")
        return {stack["StackName"]: stack for stack in found
                if stack["StackName"] != "CDKToolkit" and stack["StackStatus"] != "DELETE_COMPLETE"}

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Of all stacks."""
        return {output["OutputKey"]: output["OutputValue"]
                for stack in self.stacks.values() for output in stack.get("Outputs", [])}

    @cached_property
    def resources(self) -> list[dict[str, Any]]:
        """Of all stacks: LogicalResourceId, PhysicalResourceId, ResourceType, StackName."""
        return [{**resource, "StackName": name} for name in self.stacks
                for resource in self.pages("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=name)]

    def of_type(self, resource_type: str) -> list[dict[str, Any]]:
        return [resource for resource in self.resources if resource["ResourceType"] == resource_type]

    def functions(self) -> dict[str, dict[str, Any]]:
        """Configurations of the functions that are images, by the module that each runs, such as upload."""
        found = self.pages("lambda", "list_functions", "Functions")
        return {function["ImageConfigResponse"]["ImageConfig"]["Command"][0].split(".")[1]: function
                for function in found if function.get("PackageType") == "Image"}

    def function(self, name: str) -> dict[str, Any]:
        """Raises CheckFailed where it is not there."""
        found = self.functions()
        if name not in found:
            raise CheckFailed(f"expected a function that runs {name}, got {', '.join(sorted(found)) or 'none'}")
        return found[name]

    @cached_property
    def queue(self) -> str:
        """URL of the queue that infer reads."""
        return self._queue_url(self.pages("lambda", "list_event_source_mappings", "EventSourceMappings",
                                          FunctionName=self.function("infer")["FunctionName"])[0]["EventSourceArn"])

    @cached_property
    def dead_letters(self) -> str:
        """URL of where its messages go that were delivered in vain."""
        policy = self.queue_attributes(self.queue)["RedrivePolicy"]
        return self._queue_url(json.loads(policy)["deadLetterTargetArn"])

    def _queue_url(self, arn: str) -> str:
        return str(self.client("sqs").get_queue_url(QueueName=arn.rsplit(":", 1)[1])["QueueUrl"])

    def queue_attributes(self, url: str) -> dict[str, str]:
        return dict(self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])

    def waiting(self, url: str) -> int:
        """Messages in a queue, those that somebody works on included."""
        attributes = self.queue_attributes(url)
        return int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"])

    @cached_property
    def uploads(self) -> str:
        """The bucket of pictures."""
        return self.outputs["UploadsBucket"]

    @cached_property
    def key(self) -> str:
        """The API key's value."""
        keys = self.client("apigateway").get_api_keys(includeValues=True)["items"]
        if not keys:
            raise CheckFailed("expected an API key, got none")
        return str(keys[0]["value"])

    @cached_property
    def api(self) -> tuple[str, str]:
        """Id and stage of the REST API."""
        apis = self.client("apigateway").get_rest_apis()["items"]
        if len(apis) != 1:
            raise CheckFailed(f"expected one REST API, got {len(apis)}")
        stage = self.client("apigateway").get_stages(restApiId=apis[0]["id"])["item"][0]["stageName"]
        return str(apis[0]["id"]), str(stage)

    @property
    def database_url(self) -> str:
        """Of the master user, with the password that the emulator's database has in place of IAM. TLS is asked for."""
        found = self.client("rds").describe_db_instances()["DBInstances"]
        if not found:
            raise CheckFailed("expected a database, got none")
        endpoint, told = found[0]["Endpoint"], urlsplit(self.function("migrate")["Environment"]["Variables"]["DATABASE_URL"])
        return f"postgresql://{told.username}:{told.password}@{endpoint['Address']}:{endpoint['Port']}{told.path}?sslmode=require"

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """As the master user, over TLS."""
        connection = psycopg.connect(self.database_url, autocommit=True, connect_timeout=10,
                                     options=f"-c statement_timeout={STATEMENT_MS}")
        try:
            yield connection
        finally:
            connection.close()

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a statement answers."""
        with self.database() as connection:
            return connection.execute(statement, values).fetchall()
