"""The functions of lambdas/, and the schema's migration at each deploy that changes it."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codedeploy as codedeploy
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from constructs import Construct

from infra.data import DataStack
from infra.database import DIRECT, OWNER, READER
from infra.exempt import Exempt
from infra.functions import Worker
from infra.images import Sources, publish_image
from infra.models import publish_bundle
from infra.proxy import Proxy
from infra.sources import bundle_of_project
from infra.stages import IN_VPC, Stage
from shutterless.migrations import migrations_hash

IMAGE_OF = {"upload": "api", "query": "api", "migrate": "api", "predict": "inference", "infer": "inference"}
USER_OF = {"upload": "shutterless_upload", "query": "shutterless_query", "infer": "shutterless_infer", "migrate": OWNER}
DOORS = ("upload", "query", "predict")
CA_IN_IMAGE = "/var/task/database-ca.pem"  # where the Dockerfiles put DB_CA


SERVED = ("Service/Migrate/Role", "Service/Upload/Role", "Service/Query/Role", "Service/Infer/Role")
EXEMPT = (
    Exempt("IAM4", tuple(f"Service/{name}Canary" for name in ("Upload", "Query", "Predict", "Infer")),
           "AWS's own policy for CodeDeploy before functions: it moves an alias, reads alarms, invokes hooks, and nothing more.",
           "Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSCodeDeployRoleForLambdaLimited"),
    Exempt("IAM5", SERVED,
           "Lambda makes the network interfaces of functions in a VPC in their name, and wants these actions on every resource: "
           "the interfaces do not exist yet, and what describes knows no smaller one. The code itself has no route to EC2.",
           "Resource::*"),
    Exempt("IAM5", SERVED[1:], "Pictures have keys that nobody knows beforehand: all below uploads/, and nothing beside.",
           "Resource::{uploads}/uploads/*"),
    Exempt("IAM5", ("Service/Infer/Role", "Service/Predict/Role"), "The files of all bundles, and nothing beside models/.",
           "Resource::{models}/models/*"),
)


class ServiceStack(Stack):
    """workers: the functions, by name."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, data: DataStack, sources: Sources, outdir: str,
                 **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        self._stage, self._data = stage, data
        self._images = {name: publish_image(self, name, stage=stage, sources=sources, outdir=outdir)
                        for name in ("api", "inference")}
        _, bundle = bundle_of_project(sources.bundle, every_file=True)
        self.model_uri = publish_bundle(self, bundle, bucket=data.models_name, outdir=outdir)
        self._proxy = (Proxy(self, "Proxy", stage=stage, database=data.database, network=data.network) if stage.database.proxy
                       else None)
        self.workers = {name: self._worker(name) for name in ("migrate", "upload", "query", "infer", "predict")}
        if self._proxy:
            for name in ("upload", "query", "infer"):  # asked only when it leads somewhere
                self.workers[name].function.node.add_dependency(self._proxy)
        self._grant()
        self._listen()
        self._migrate_first()
        if stage.canary:
            self._shift_slowly()
        CfnOutput(self, "ModelUri", value=self.model_uri)
        CfnOutput(self, "SigningKey", value=sources.signer,
                  description="The key of signed bundles: openssl pkey -pubin -in public.pem | openssl sha256")
        for name in self.workers:
            CfnOutput(self, f"{name.title()}Function", value=self.workers[name].target.function_name)
            CfnOutput(self, f"{name.title()}Log", value=self.workers[name].log_group.log_group_name)

    def _worker(self, name: str) -> Worker:
        return Worker(self, name.title(), name=name, stage=self._stage, image=self._images[IMAGE_OF[name]],
                      environment=self._environment(name), network=self._data.network if name in IN_VPC else None)

    def _environment(self, name: str) -> dict[str, str]:
        stage, environment = self._stage, dict[str, str]()
        if name in USER_OF:
            environment["DATABASE_URL"] = self._data.database.url(USER_OF[name], self._door(USER_OF[name]))
            if stage.iam_database:
                environment |= {"SHUTTERLESS_DATABASE_AUTH": "iam", "SHUTTERLESS_DATABASE_CA": CA_IN_IMAGE}
        if name in ("upload", "query"):
            environment["SHUTTERLESS_OBJECTS"] = f"s3://{self._data.uploads.bucket_name}"
        if name == "infer":
            environment["SHUTTERLESS_MAX_RECEIVES"] = str(stage.max_receives)
        if name in ("infer", "predict") and stage.model_from == "bucket":
            environment["MODEL_URI"] = self.model_uri
        if name in DOORS:
            environment["SHUTTERLESS_CORS_ORIGINS"] = ",".join([self._data.page_origin, *stage.origins])
        if name == "migrate" and stage.database.password:
            environment["SHUTTERLESS_ROLE_PASSWORD"] = stage.database.password
        return environment

    def _door(self, user: str) -> Proxy | None:
        """Who changes the schema, or asks for an operator, does not go through a pool of connections."""
        return None if user in DIRECT else self._proxy

    def _grant(self) -> None:
        """Each function, what its statements and calls need."""
        uploads, workers = self._data.uploads.bucket_arn, self.workers
        pictures = f"{uploads}/uploads/*"
        workers["upload"].allow(["s3:PutObject"], pictures)
        workers["query"].allow(["s3:GetObject", "s3:GetObjectVersion", "s3:DeleteObject"], pictures)
        workers["query"].allow(["s3:ListBucket"], uploads)
        workers["infer"].allow(["s3:GetObject", "s3:GetObjectVersion"], pictures)
        workers["infer"].allow(["s3:ListBucket", "s3:ListBucketVersions"], uploads)
        if self._stage.model_from == "bucket":
            for name in ("infer", "predict"):
                workers[name].allow(["s3:GetObject"], f"{self._data.models.bucket_arn}/models/*")
        for name, user in USER_OF.items():
            self._data.database.grant_connect(workers[name].role, user, self._door(user))
        self._data.database.grant_connect(workers["migrate"].role, READER)

    def _listen(self) -> None:
        """infer works on each task's queue; a message that failed comes back alone."""
        for each in self._data.queues:
            self.workers["infer"].target.add_event_source(event_sources.SqsEventSource(
                each.queue, batch_size=self._stage.batch, max_concurrency=self._stage.queue_concurrency,
                max_batching_window=Duration.seconds(self._stage.batch_window_s) if self._stage.batch_window_s else None,
                report_batch_item_failures=True))

    def _migrate_first(self) -> None:
        """The function answers CloudFormation itself; the others are changed when it has succeeded."""
        migrate = self.workers["migrate"]
        self.schema = cdk.CustomResource(
            self, "Schema", resource_type="Custom::ShutterlessSchema", service_token=migrate.function.function_arn,
            service_timeout=Duration.seconds(self._stage.functions["migrate"].timeout_s + 60),
            properties={"Migrations": migrations_hash(), "Database": self._data.database.identifier})
        self.schema.node.add_dependency(migrate.role)
        for name in ("upload", "query", "infer"):
            self.workers[name].function.node.add_dependency(self.schema)

    def _shift_slowly(self) -> None:
        """A new version gets a share of the calls for five minutes, and none any more when one of them fails."""
        config = codedeploy.LambdaDeploymentConfig(self, "Canary", traffic_routing=codedeploy.TrafficRouting.time_based_canary(
            interval=Duration.minutes(5), percentage=self._stage.canary))
        for name in ("upload", "query", "predict", "infer"):
            alias = self.workers[name].target
            assert isinstance(alias, lambda_.Alias)  # noqa: S101  the stage has aliases
            alarm = cloudwatch.Alarm(
                self, f"{name.title()}CanaryErrors", metric=alias.metric_errors(period=Duration.minutes(1)), threshold=1,
                evaluation_periods=1, treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
                alarm_description=f"A new version of {name} fails during its deploy: CodeDeploy gives all calls back to the one "
                                  "before. Look at its log, mend it, deploy again.")
            codedeploy.LambdaDeploymentGroup(self, f"{name.title()}Canary", alias=alias, deployment_config=config, alarms=[alarm])
