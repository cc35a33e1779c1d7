"""What all stages of an account share: the role in which API Gateway writes its logs."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.exempt import Exempt

EXEMPT = (
    Exempt("IAM4", ("Account/ApiLogs",),
           "The policy that AWS prescribes for this role, and the only one that API Gateway accepts in every region.",
           "Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"),
)


class AccountStack(cdk.Stack):
    """API Gateway knows one such role per account and region, so no stage may own it: with the first that goes, the others would
    lose their logs. Nothing in it depends on a stage, so that each can deploy it."""

    def __init__(self, scope: Construct, construct_id: str, **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        role = iam.Role(self, "ApiLogs", assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"), managed_policies=[
            iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")])
        apigateway.CfnAccount(self, "ApiGateway", cloud_watch_role_arn=role.role_arn)
