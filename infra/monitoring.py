"""Watching a stage: a dashboard, alarms, and a budget where one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from infra.alarms import Alarms
from infra.dashboard import Rows
from infra.prices import USUAL, prices_of
from infra.signals import BUSY, Signals
from infra.stages import Stage

if TYPE_CHECKING:
    from infra.api import ApiStack
    from infra.data import DataStack
    from infra.service import ServiceStack

WARN_PERCENT = (50, 80, 100)  # of a budget


class WatchStack(cdk.Stack):
    """dashboard, alarms (with their topic)."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, data: DataStack, service: ServiceStack,
                 api: ApiStack, **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        signals = Signals(stage, api.api)
        for name in BUSY:
            signals.read_reports(self, service.workers[name])
        self.alarms = Alarms(self, "Alarms", stage=stage, signals=signals)
        self.alarms.watch_api()
        self.alarms.watch_functions(service.workers.values())
        for queue in data.queues:
            self.alarms.watch_queue(queue)
        self.alarms.watch_pictures()
        self.alarms.watch_database(data.database)
        rows = Rows(signals, service.workers, data.queues, data.database, prices_of(USUAL))
        self.dashboard = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=f"shutterless-{stage.name}",
                                              default_interval=cdk.Duration.hours(12), widgets=rows.all(self.alarms.all))
        if stage.budget_usd and stage.alarm_email:
            self._budget(stage.budget_usd, stage.alarm_email)
        cdk.CfnOutput(self, "DashboardUrl", value=f"https://{self.region}.console.aws.amazon.com/cloudwatch/home?region={self.region}"
                                                  f"#dashboards/dashboard/shutterless-{stage.name}")
        cdk.CfnOutput(self, "AlarmTopic", value=self.alarms.topic.topic_arn)

    def _budget(self, usd: int, email: str) -> None:
        """Of the whole account, whichever stage asks for it."""
        hears = budgets.CfnBudget.SubscriberProperty(address=email, subscription_type="EMAIL")
        budgets.CfnBudget(
            self, "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_type="COST", time_unit="MONTHLY", budget_limit=budgets.CfnBudget.SpendProperty(amount=usd, unit="USD")),
            notifications_with_subscribers=[budgets.CfnBudget.NotificationWithSubscribersProperty(
                subscribers=[hears], notification=budgets.CfnBudget.NotificationProperty(
                    comparison_operator="GREATER_THAN", notification_type="ACTUAL", threshold=percent,
                    threshold_type="PERCENTAGE"))
                for percent in WARN_PERCENT])
