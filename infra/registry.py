"""Where the app publishes what it deploys: images in repositories of its own, templates and files in a bucket of its own.

The other stacks are synthesized by `synthesizer_of(registry)`; then one `cdk deploy --all` builds, pushes, uploads and deploys,
and a second one pushes and replaces nothing, since all is named by what is in it.
"""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
import aws_cdk.app_staging_synthesizer_alpha as staging
import jsii
from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.exempt import NO_ACCESS_LOG, Exempt
from infra.stages import Stage

IMAGES = ("api", "inference")
MODELS = "models/"  # how the keys of a bundle's files begin


EXEMPT = (
    Exempt("S1", ("Registry/Artifacts",), NO_ACCESS_LOG),
)


@jsii.implements(staging.IStagingResources)
class Registry(Stack):
    """Repositories and bucket of one stage. Their names are literals, since the command line publishes by them before
    CloudFormation could tell."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, account: str, region: str, **settings: Any) -> None:
        super().__init__(scope, construct_id, synthesizer=cdk.LegacyStackSynthesizer(), **settings)
        self.artifacts_name = f"shutterless-{stage.name}-artifacts-{account}-{region}"
        self.models_name = f"shutterless-{stage.name}-models-{account}-{region}"
        self.data_stack: Stack | None = None
        self._stage = stage
        self.artifacts = s3.Bucket(
            self, "Artifacts", bucket_name=self.artifacts_name, versioned=True, enforce_ssl=True, minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL, encryption=s3.BucketEncryption.S3_MANAGED,
            removal_policy=RemovalPolicy.DESTROY,
            lifecycle_rules=[s3.LifecycleRule(prefix="deploy-time/", expiration=Duration.days(30),
                                              noncurrent_version_expiration=Duration.days(1),
                                              abort_incomplete_multipart_upload_after=Duration.days(1))])
        for image in IMAGES:
            self._repository(image)

    def _repository(self, image: str) -> None:
        """No rule expires a tagged image: a rule cannot know what is in use."""
        repository = ecr.Repository(
            self, image.title(), repository_name=self.repository_name(image), image_scan_on_push=True,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE, removal_policy=RemovalPolicy.DESTROY, empty_on_delete=True,
            lifecycle_rules=[ecr.LifecycleRule(description="Layers of a push that broke off", max_image_age=Duration.days(1),
                                               tag_status=ecr.TagStatus.UNTAGGED)])
        repository.add_to_resource_policy(iam.PolicyStatement(
            principals=[iam.ServicePrincipal("lambda.amazonaws.com")],
            actions=["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            conditions={"StringEquals": {"aws:SourceAccount": self.account}}))

    def repository_name(self, image: str) -> str:
        return f"shutterless-{self._stage.name}/{image}"

    def add_file(self, *, source_hash: str, deploy_time: bool | None = None, **_: Any) -> staging.FileStagingLocation:
        """Where the command line puts a file: a bundle's into the bucket of models, all others here."""
        if source_hash.startswith(MODELS):
            assert self.data_stack  # noqa: S101  build() sets it before a stack publishes models
            return staging.FileStagingLocation(bucket_name=self.models_name, dependency_stack=self.data_stack)
        return staging.FileStagingLocation(bucket_name=self.artifacts_name, dependency_stack=self,
                                           prefix="deploy-time/" if deploy_time else None)

    def add_docker_image(self, *, source_hash: str, asset_name: str | None = None, **_: Any) -> staging.ImageStagingLocation:
        """Where the command line pushes an image, by the hash of its sources."""
        if asset_name not in IMAGES:
            raise ValueError(f"Expected one of the images {', '.join(IMAGES)}, got {asset_name!r}.")
        return staging.ImageStagingLocation(repo_name=self.repository_name(asset_name), dependency_stack=self)


def synthesizer_of(registry: Registry) -> staging.AppStagingSynthesizer:
    """For all stacks but the registry itself. What is deployed is deployed in the caller's own name."""
    return staging.AppStagingSynthesizer.custom_resources(
        resources=registry, deployment_identities=staging.DeploymentIdentities.cli_credentials())
