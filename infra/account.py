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
    lose their logs. Nothing in it depends on a stage, so that each can deploy it.

    log_role: the ARN of one that others made, which stays as it is; None makes one of our own. CloudFormation lets the account
    name a role that it deletes: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-apigateway-account.html
    """

    def __init__(self, scope: Construct, construct_id: str, *, log_role: str | None = None, **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        apigateway.CfnAccount(self, "ApiGateway", cloud_watch_role_arn=log_role or self._own_role())

    def _own_role(self) -> str:
        role = iam.Role(self, "ApiLogs", assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"), managed_policies=[
            iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")])
        return role.role_arn
