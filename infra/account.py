"""What all stages of an account share: the role with which API Gateway writes its logs, and a budget where one is asked for."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.stages import BadStage

WARN_PERCENT = (50, 80, 100)


class AccountStack(cdk.Stack):
    """API Gateway knows one such role per account and region, so that no stage may own it: the first would take the logs of all
    others with it when it goes. budget_usd: a month, for the whole account; None makes none. `email` hears of it."""

    def __init__(self, scope: Construct, id: str, *, budget_usd: int | None = None, email: str | None = None, **kwargs: Any) -> None:
        super().__init__(scope, id, **kwargs)
        role = iam.Role(self, "ApiLogs", assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"), managed_policies=[
            iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")])
        apigateway.CfnAccount(self, "ApiGateway", cloud_watch_role_arn=role.role_arn)
        if budget_usd:
            self._budget(budget_usd, email)

    def _budget(self, usd: int, email: str | None) -> None:
        if email is None:
            raise BadStage("A budget helps nobody if it tells nobody: expected alarm_email beside budget_usd, got none. Set it.")
        hears = budgets.CfnBudget.SubscriberProperty(address=email, subscription_type="EMAIL")
        budgets.CfnBudget(
            self, "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_type="COST", time_unit="MONTHLY", budget_limit=budgets.CfnBudget.SpendProperty(amount=usd, unit="USD")),
            notifications_with_subscribers=[budgets.CfnBudget.NotificationWithSubscribersProperty(
                subscribers=[hears], notification=budgets.CfnBudget.NotificationProperty(
                    comparison_operator="GREATER_THAN", notification_type="ACTUAL", threshold=percent, threshold_type="PERCENTAGE"))
                for percent in WARN_PERCENT])
