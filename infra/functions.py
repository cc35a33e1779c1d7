"""One Lambda function of an image: its own role, its own log group, the rights that it is given and no others."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.images import Image
from infra.network import Network
from infra.stages import LOG_DAYS, Stage

ARCHITECTURES = {"x86_64": lambda_.Architecture.X86_64, "arm64": lambda_.Architecture.ARM_64}
_DAYS = logs.RetentionDays
RETENTION = dict(zip(LOG_DAYS, (
    _DAYS.ONE_DAY, _DAYS.THREE_DAYS, _DAYS.FIVE_DAYS, _DAYS.ONE_WEEK, _DAYS.TWO_WEEKS, _DAYS.ONE_MONTH, _DAYS.TWO_MONTHS,
    _DAYS.THREE_MONTHS, _DAYS.FOUR_MONTHS, _DAYS.FIVE_MONTHS, _DAYS.SIX_MONTHS, _DAYS.ONE_YEAR), strict=True))
ALIAS = "live"


class Worker(Construct):
    """function, role, log_group; target: what callers call, an alias where the stage has them.

    called_arn: the target's, for other stacks. It is made of the function's in any case, so that they import the same whether
    there are aliases or not: CloudFormation lets no stack take away what another still imports.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str, stage: Stage, image: Image,
                 environment: Mapping[str, str], network: Network | None = None) -> None:
        super().__init__(scope, construct_id)
        size = stage.functions[name]
        self.name = name
        self.log_group = logs.LogGroup(self, "Log", retention=RETENTION[stage.log_days], removal_policy=RemovalPolicy.DESTROY)
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
                             description=f"Shutterless {stage.name}: the function {name}")
        self.allow(["logs:CreateLogStream", "logs:PutLogEvents"], self.log_group.log_group_arn)
        if network:
            self._allow_network_interfaces()
        repository = ecr.Repository.from_repository_name(self, "Repository", image.repository)
        self.function = lambda_.DockerImageFunction(
            self, "Function", description=f"Shutterless {stage.name}: {name}",
            code=lambda_.DockerImageCode.from_ecr(repository, tag_or_digest=image.tag, cmd=[f"lambdas.{name}.handler"]),
            architecture=ARCHITECTURES[stage.architecture], memory_size=size.memory_mb, timeout=Duration.seconds(size.timeout_s),
            role=self.role, log_group=self.log_group, environment={"SHUTTERLESS_STAGE": stage.name, **environment},
            reserved_concurrent_executions=size.reserved, vpc=network.vpc if network else None,
            security_groups=[network.functions] if network else None,
            snap_start=lambda_.SnapStartConf.ON_PUBLISHED_VERSIONS if stage.snapstart and name != "migrate" else None,
            current_version_options=lambda_.VersionOptions(removal_policy=RemovalPolicy.DESTROY))
        self.target: lambda_.IFunction = self.function
        self.called_arn = self.function.function_arn
        if stage.has_alias and name != "migrate":
            self.target = lambda_.Alias(self, "Live", alias_name=ALIAS, version=self.function.current_version,
                                        provisioned_concurrent_executions=size.provisioned or None)
            self.called_arn += f":{ALIAS}"

    def allow(self, actions: list[str], *resources: str) -> None:
        self.role.add_to_policy(iam.PolicyStatement(actions=actions, resources=list(resources)))

    def _allow_network_interfaces(self) -> None:
        """Lambda itself makes them, in the function's name, which has no route to EC2 from inside.

        https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
        """
        self.allow(["ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
                    "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses"], "*")
