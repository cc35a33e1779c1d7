"""What outlives a deploy: pictures, models, queues, and the database in its network."""

from __future__ import annotations

from typing import Any

from aws_cdk import CfnOutput, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.database import Postgres
from infra.exempt import NO_ACCESS_LOG, Exempt
from infra.network import Network
from infra.queues import TaskQueue
from infra.site import SiteStack
from infra.stages import Stage
from shutterless.uploads import TASKS

EXEMPT = (
    Exempt("S1", ("Data/Uploads", "Data/Models"), NO_ACCESS_LOG),
)


class DataStack(Stack):
    """uploads, models: buckets. queues: one of each task. vpc, network, database."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, site: SiteStack, models_name: str,
                 **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        self._stage = stage
        self.models_name, self.page_origin = models_name, site.origin
        self.queues = [TaskQueue(self, task.title(), task=task, stage=stage) for task in TASKS]
        self.uploads = self._uploads([site.origin, *stage.origins])
        self._notify()
        self.models = s3.Bucket(self, "Models", bucket_name=models_name, removal_policy=RemovalPolicy.DESTROY, **_PRIVATE)
        self.network = Network(self, "Network")
        self.network.open_buckets(self.uploads.bucket_arn, self.models.bucket_arn)
        self.vpc = self.network.vpc
        self.database = Postgres(self, "Database", stage=stage, network=self.network)
        self._export()
        CfnOutput(self, "UploadsBucket", value=self.uploads.bucket_name)
        CfnOutput(self, "ModelsBucket", value=self.models.bucket_name)
        CfnOutput(self, "DatabaseIdentifier", value=self.database.identifier)
        CfnOutput(self, "DatabaseKind", value=stage.database.kind)
        for each in self.queues:
            CfnOutput(self, f"{each.task.title()}QueueUrl", value=each.queue.queue_url)
            CfnOutput(self, f"{each.task.title()}DeadLettersUrl", value=each.dead_letters.queue_url)

    def _export(self) -> None:
        """Whether or not a switch makes another stack import it: if that depended on switches, none could be turned off again,
        since CloudFormation lets no stack take away what another still imports."""
        for_the_proxy = (self.vpc.vpc_id, self.network.databases.security_group_id, self.database.login_id)
        for value in (self.uploads.bucket_arn, self.models.bucket_arn, *(for_the_proxy if self._stage.iam_database else ())):
            self.export_value(value)

    @property
    def availability_zones(self) -> list[str]:
        """Those of the region where the stack is deployed, told by CloudFormation, so that synth need not ask."""
        return [Fn.select(index, Fn.get_azs()) for index in range(2)]

    def _uploads(self, origins: list[str]) -> s3.Bucket:
        """Each version is kept until it is deleted or replaced, and then for a day. Browsers post presigned forms."""
        day = Duration.days(1)
        return s3.Bucket(
            self, "Uploads", versioned=True, **_PRIVATE,
            removal_policy=RemovalPolicy.RETAIN if self._stage.keeps_data else RemovalPolicy.DESTROY,
            lifecycle_rules=[s3.LifecycleRule(noncurrent_version_expiration=day, expired_object_delete_marker=True,
                                              abort_incomplete_multipart_upload_after=day)],
            cors=[s3.CorsRule(allowed_methods=[s3.HttpMethods.POST], allowed_origins=origins, allowed_headers=["*"],
                              exposed_headers=["ETag", "x-amz-version-id"], max_age=3600)])

    def _notify(self) -> None:
        """S3 tells each task's queue. The bucket is named in the queues' policies by how CloudFormation begins its name, since
        its own would close a circle."""
        bucket = self.uploads.node.default_child
        assert isinstance(bucket, s3.CfnBucket)  # noqa: S101  for mypy: what a Bucket stands on
        begins = f"arn:{self.partition}:s3:::{self.stack_name}-*"
        rules = []
        for each in self.queues:
            allowed = each.queue.add_to_resource_policy(iam.PolicyStatement(
                principals=[iam.ServicePrincipal("s3.amazonaws.com")], actions=["sqs:SendMessage"],
                resources=[each.queue.queue_arn],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}, "ArnLike": {"aws:SourceArn": begins}}))
            if allowed.policy_dependable:
                self.uploads.node.add_dependency(allowed.policy_dependable)
            prefix = s3.CfnBucket.FilterRuleProperty(name="prefix", value=f"uploads/{each.task}/")
            rules.append(s3.CfnBucket.QueueConfigurationProperty(
                event="s3:ObjectCreated:*", queue=each.queue.queue_arn,
                filter=s3.CfnBucket.NotificationFilterProperty(s3_key=s3.CfnBucket.S3KeyFilterProperty(rules=[prefix]))))
        bucket.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(queue_configurations=rules)


_PRIVATE: dict[str, Any] = {"enforce_ssl": True, "minimum_tls_version": 1.2, "encryption": s3.BucketEncryption.S3_MANAGED,
                            "block_public_access": s3.BlockPublicAccess.BLOCK_ALL}
