"""What the deploy left in the account, looked at service by service, beside what CloudFormation says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from rehearsal.account import SETTLED, Account
from rehearsal.watched import Step, expect
from shutterless.migrations import HEAD
from shutterless.migrations.roles import RIGHTS

FUNCTIONS = {"upload", "query", "infer", "predict", "migrate"}
TABLES = {"results", "alembic_version"}


class Inventory:
    """account: read anew for each deploy."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def all(self) -> Iterator[tuple[str, Callable[[Step], None]]]:
        yield "stacks are complete, and what they import is exported", self.stacks
        yield "images: each function runs one that is in its repository", self.images
        yield "database: tables, schema, roles with their rights and no others", self.database
        yield "queues: dead letters, batch failures, the queue's concurrency", self.queues
        yield "buckets: private, TLS only, versions where pictures lie", self.buckets
        yield "alarms: each says what to do, and tells the topic", self.alarms
        yield "dashboard: it is there, and shows each function that works for clients", self.dashboard

    def stacks(self, step: Step) -> None:
        unsettled = {name: stack["StackStatus"] for name, stack in self.account.stacks.items()
                     if stack["StackStatus"] not in SETTLED}
        expect(bool(self.account.stacks) and not unsettled, f"expected stacks, all complete, got {unsettled or 'none'}")
        exports = {export["Name"] for export in self.account.pages("cloudformation", "list_exports", "Exports")}
        client = self.account.client("cloudformation")
        for name in self.account.stacks:
            template = client.get_template(StackName=name)["TemplateBody"]
            missing = _imported(template if isinstance(template, str) else json.dumps(template)) - exports
            expect(not missing, f"{name}: expected these exports, which it imports: {', '.join(sorted(missing))}")
        step.notes.append(f"{len(self.account.stacks)} stacks, {len(self.account.resources)} resources, {len(exports)} exports")

    def images(self, step: Step) -> None:
        functions = self.account.functions()
        expect(set(functions) == FUNCTIONS, f"expected {sorted(FUNCTIONS)}, got {sorted(functions)}")
        digests = set()
        for name, function in functions.items():
            address = self.account.client("lambda").get_function(FunctionName=function["FunctionName"])["Code"]["ImageUri"]
            repository, _, tag = address.partition("/")[2].rpartition(":")
            found = self.account.client("ecr").describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
            digest = found["imageDetails"][0]["imageDigest"]
            expect(digest.startswith("sha256:"), f"{name}: expected {address} in its repository, got {digest}")
            digests.add(digest)
        expect(len(digests) == 2, f"expected two images, got {len(digests)}")
        step.notes.append("two images, five functions")

    def database(self, step: Step) -> None:
        tables = {name for name, in self.account.rows("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")}
        expect(tables == TABLES, f"expected the tables {sorted(TABLES)}, got {sorted(tables)}")
        version = self.account.rows("SELECT version_num FROM alembic_version")
        expect(version == [(HEAD,)], f"expected schema {HEAD}, got {version}")
        roles = dict(self.account.rows("SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles "
                                       "WHERE rolname LIKE 'shutterless\\_%%' AND rolname <> current_user"))
        expect(roles == dict.fromkeys(RIGHTS, False), f"expected {sorted(RIGHTS)}, none with rights over the server, got {roles}")
        deleting = {role for role, in self.account.rows(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND has_table_privilege(rolname, 'results', 'DELETE')",
            list(RIGHTS))}
        expect(deleting == {"shutterless_query"}, f"expected only shutterless_query to delete, got {sorted(deleting)}")
        encrypted = self.account.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        expect(encrypted == [(True,)], "expected TLS")
        step.notes.append(f"schema {HEAD}, {len(roles)} roles, TLS")

    def queues(self, step: Step) -> None:
        mapping = self.account.pages("lambda", "list_event_source_mappings", "EventSourceMappings")[0]
        expect("ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", [])
               and mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0) >= 2,
               f"expected batch item failures and a maximum concurrency, got {mapping}")
        attributes = self.account.queue_attributes(self.account.queue)
        receives = int(json.loads(attributes["RedrivePolicy"])["maxReceiveCount"])
        timeout_s = self.account.function("infer")["Timeout"]
        expect(receives >= 5 and int(attributes["VisibilityTimeout"]) >= 6 * timeout_s,
               f"expected 5 receives or more and {6 * timeout_s} s, got {receives} and {attributes['VisibilityTimeout']} s")
        told = self.account.function("infer")["Environment"]["Variables"].get("SHUTTERLESS_MAX_RECEIVES")
        expect(told == str(receives), f"expected infer to know of {receives} receives, got {told}")

    def buckets(self, step: Step) -> None:
        s3 = self.account.client("s3")
        names = [resource["PhysicalResourceId"] for resource in self.account.of_type("AWS::S3::Bucket")]
        for name in names:
            blocked = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
            expect(all(blocked.values()) and len(blocked) == 4, f"{name}: expected no public access, got {blocked}")
            policy = s3.get_bucket_policy(Bucket=name)["Policy"]
            expect("aws:SecureTransport" in policy, f"{name}: expected TLS only, got {policy}")
        expect(s3.get_bucket_versioning(Bucket=self.account.uploads).get("Status") == "Enabled", "expected versions of pictures")
        step.notes.append(f"{len(names)} buckets")

    def alarms(self, step: Step) -> None:
        found = self.account.client("cloudwatch").describe_alarms(MaxRecords=100)["MetricAlarms"]
        declared = self.account.of_type("AWS::CloudWatch::Alarm")
        expect(len(found) == len(declared) and bool(found), f"expected {len(declared)} alarms, got {len(found)}")
        topics = {topic["TopicArn"] for topic in self.account.pages("sns", "list_topics", "Topics")}
        for alarm in found:
            expect(len(alarm.get("AlarmDescription", "")) > 20, f"{alarm['AlarmName']}: expected a sentence that says what to do")
            expect(topics >= set(alarm["AlarmActions"]) and bool(alarm["AlarmActions"]),
                   f"{alarm['AlarmName']}: expected to tell a topic, got {alarm['AlarmActions']}")
        step.notes.append(f"{len(found)} alarms")

    def dashboard(self, step: Step) -> None:
        cloudwatch = self.account.client("cloudwatch")
        entries = cloudwatch.list_dashboards()["DashboardEntries"]
        expect(len(entries) == 1, f"expected one dashboard, got {len(entries)}")
        widgets = json.loads(cloudwatch.get_dashboard(DashboardName=entries[0]["DashboardName"])["DashboardBody"])["widgets"]
        names = {function["FunctionName"] for name, function in self.account.functions().items() if name != "migrate"}
        written = json.dumps(widgets)
        unseen = {name for name in names if name not in written}
        expect(not unseen, f"expected each function on the dashboard, not seen: {', '.join(sorted(unseen))}")
        step.notes.append(f"{len(widgets)} widgets")


def _imported(template: str) -> set[str]:
    """Names of all exports that a template imports, be it JSON or YAML."""
    return set(re.findall(r"""Fn::ImportValue["']?:\s*["']?([^"'\s]+)""", template))
