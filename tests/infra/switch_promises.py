"""What each switch promises where it is on (the stages of synthesized.SWITCHED), and a change of the app that breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import aws_cdk as cdk

from infra.stacks import Stacks
from infra.stages import Stage
from tests.infra.promises import Promise, Templates, Where, function, of_type, only, set_on, statements
from tests.infra.synthesized import as_text

SWITCH_PROMISES: list[Promise] = []
CALLED = ("upload", "query", "predict", "infer")  # migrate runs at deploys alone


def promise(stage: str, broken: Callable[[Stacks], Where]) -> Callable[[Callable[[Templates, Stage], None]], None]:
    def add(check: Callable[[Templates, Stage], None]) -> None:
        SWITCH_PROMISES.append(Promise(check.__name__, check, broken, stage))
    return add


def aliases(templates: Templates) -> dict[str, dict[str, Any]]:
    """Function -> its alias."""
    return {name.partition("Live")[0].lower(): each for name, each in templates["Service"]["Resources"].items()
            if each["Type"] == "AWS::Lambda::Alias"}


def keep_old_versions(stacks: Stacks) -> Where:
    version = stacks.service.workers["infer"].function.current_version.node.default_child
    assert isinstance(version, cdk.CfnResource)
    version.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
    return Where("Service", str(stacks.service.resolve(version.logical_id)))


# SnapStart, canary, Aurora.

@promise("snapped", set_on("Service/Query/Function", "SnapStart", None))
def functions_that_answer_start_from_a_snapshot_of_their_version(templates, stage):
    assert stage.snapstart
    assert {name for name in stage.functions if "SnapStart" in function(templates, name)} == set(CALLED)
    assert {json.dumps(each.get("SnapStart")) for each in of_type(templates["Service"], "Lambda::Function").values()} == {
        '{"ApplyOn": "PublishedVersions"}', "null"}


@promise("snapped", keep_old_versions)
def old_versions_are_deleted_since_each_keeps_a_paid_snapshot(templates, stage):
    found = [each for each in templates["Service"]["Resources"].values() if each["Type"] == "AWS::Lambda::Version"]
    assert len(found) == len(CALLED)
    assert {each.get("DeletionPolicy", "Delete") for each in found} == {"Delete"}
    assert {each.get("UpdateReplacePolicy", "Delete") for each in found} == {"Delete"}


@promise("snapped", set_on("Service/Infer/Live/SqsEventSource:DataClassifyQueueC51D326B", "FunctionName", "infer"))
def whoever_calls_a_function_reaches_a_version_through_its_alias(templates, stage):
    service, api = templates["Service"], templates["Api"]
    found = aliases(templates)
    assert found.keys() == set(CALLED)
    for each in found.values():
        assert each["Properties"]["Name"] == "live"
        assert service["Resources"][each["Properties"]["FunctionVersion"]["Fn::GetAtt"][0]]["Type"] == "AWS::Lambda::Version"
    integrations = [as_text(each["Integration"]["Uri"]) for each in of_type(api, "ApiGateway::Method").values()
                    if each["Integration"]["Type"] == "AWS_PROXY"]
    assert len(integrations) > 10
    assert all(uri.endswith(":live/invocations") for uri in integrations)
    assert all(as_text(each["FunctionName"]).endswith(":live") for each in of_type(api, "Lambda::Permission").values())
    assert as_text(only(service, "Lambda::EventSourceMapping")["FunctionName"]) == "<part>:live"


@promise("snapped", set_on("Service/QueryCanary", "AlarmConfiguration.Enabled", False))
def a_new_version_gets_a_share_first_and_none_any_more_when_it_fails(templates, stage):
    service = templates["Service"]
    (config,) = [json.dumps(each) for each in of_type(service, "CodeDeploy::DeploymentConfig").values()]
    assert f'"CanaryInterval": 5, "CanaryPercentage": {stage.canary}' in config
    groups = of_type(service, "CodeDeploy::DeploymentGroup")
    assert len(groups) == len(CALLED)
    for each in groups.values():
        assert each["AlarmConfiguration"]["Enabled"] is True
        (alarm,) = each["AlarmConfiguration"]["Alarms"]
        watched = service["Resources"][alarm["Name"]["Ref"]]["Properties"]
        assert (watched["MetricName"], watched["Threshold"], watched["EvaluationPeriods"]) == ("Errors", 1, 1)
        assert "Resource" in [dimension["Name"] for dimension in watched["Dimensions"]], "of the alias, not of all versions"
        assert "DEPLOYMENT_STOP_ON_ALARM" in each["AutoRollbackConfiguration"]["Events"]
        assert each["AutoRollbackConfiguration"]["Enabled"] is True


@promise("snapped", lambda stacks: drop_update_policy(stacks))
def codedeploy_moves_the_alias(templates, stage):
    for each in aliases(templates).values():
        shift = each["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
        assert shift.keys() == {"ApplicationName", "DeploymentGroupName"}


def drop_update_policy(stacks: Stacks) -> Where:
    alias = stacks.service.workers["predict"].target.node.default_child
    assert isinstance(alias, cdk.CfnResource)
    alias.add_deletion_override("UpdatePolicy")
    return Where("Service", str(stacks.service.resolve(alias.logical_id)))


@promise("snapped", set_on("Data/Database/Cluster", "ServerlessV2ScalingConfiguration.SecondsUntilAutoPause", None))
def aurora_pauses_when_nobody_asks(templates, stage):
    cluster = only(templates["Data"], "RDS::DBCluster")
    assert cluster["ServerlessV2ScalingConfiguration"] == {"MinCapacity": 0, "MaxCapacity": 2, "SecondsUntilAutoPause": 300}
    assert [each["DBInstanceClass"] for each in of_type(templates["Data"], "RDS::DBInstance").values()] == ["db.serverless"] * 2
    assert not of_type(templates["Service"], "RDS::DBProxy"), "a proxy would keep it awake"


@promise("snapped", set_on("Data/Database/Cluster", "EnableIAMDatabaseAuthentication", False))
def aurora_is_as_closed_as_an_instance(templates, stage):
    data = templates["Data"]
    cluster = only(data, "RDS::DBCluster")
    assert (cluster["StorageEncrypted"], cluster["EnableIAMDatabaseAuthentication"], cluster["MasterUserAuthenticationType"]) == (
        True, True, "iam-db-auth")
    assert "MasterUserPassword" not in cluster
    assert only(data, "RDS::DBClusterParameterGroup")["Parameters"]["rds.force_ssl"] == "1"
    assert {each["PubliclyAccessible"] for each in of_type(data, "RDS::DBInstance").values()} == {False}


@promise("snapped", set_on("Service/Infer/Function", "Environment.Variables.DATABASE_URL", "postgresql://elsewhere"))
def functions_ask_aurora_at_its_writer(templates, stage):
    for name in ("upload", "query", "infer", "migrate"):
        host = json.dumps(function(templates, name)["Environment"]["Variables"]["DATABASE_URL"])
        assert "DatabaseCluster" in host
        assert "EndpointAddress" in host


# Provisioned and reserved copies, proxy, firewall, signatures, budget.

@promise("guarded", set_on("Service/Predict/Live", "ProvisionedConcurrencyConfig", None))
def copies_are_kept_warm_behind_the_alias(templates, stage):
    warm = {name: each["Properties"].get("ProvisionedConcurrencyConfig", {}).get("ProvisionedConcurrentExecutions")
            for name, each in aliases(templates).items()}
    assert warm == {name: size.provisioned or None for name, size in stage.functions.items() if name != "migrate"}
    assert warm["predict"] == 1


@promise("guarded", set_on("Service/Predict/Function", "ReservedConcurrentExecutions", None))
def copies_are_reserved(templates, stage):
    reserved = {name: function(templates, name).get("ReservedConcurrentExecutions") for name in stage.functions}
    assert reserved == {name: size.reserved for name, size in stage.functions.items()}
    assert reserved["predict"] == 5


@promise("guarded", set_on("Service/Upload/Function", "Environment.Variables.DATABASE_URL", "postgresql://elsewhere"))
def functions_ask_the_proxy_and_who_changes_the_schema_the_database(templates, stage):
    for name in ("upload", "query", "infer", "migrate"):
        host = json.dumps(function(templates, name)["Environment"]["Variables"]["DATABASE_URL"])
        assert ("Proxy" in host) == (name != "migrate")
        assert ("DatabaseInstance" in host) == (name == "migrate")


@promise("guarded", set_on("Service/Query/Role/DefaultPolicy", "PolicyDocument.Statement.4.Resource", "*"))
def functions_may_log_in_at_the_proxy_alone(templates, stage):
    for name in ("upload", "query", "infer"):
        (arn,) = [as_text(each["Resource"]) for each in statements(templates["Service"], f"{name.title()}Role")
                  if each["Action"] == "rds-db:connect"]
        assert arn.endswith(f":dbuser:<part>/shutterless_{name}"), "an id out of the proxy's address"
    proxys = [as_text(each["Resource"]) for each in statements(templates["Service"], "ProxyRole")]
    assert [arn.rpartition("/")[2] for arn in proxys] == ["shutterless_upload", "shutterless_query", "shutterless_infer"]
    assert all("DbiResourceId" in arn for arn in proxys)


@promise("guarded", set_on("Service/Proxy/Proxy", "RequireTLS", False))
def the_proxy_takes_iam_and_tls_alone(templates, stage):
    proxy = only(templates["Service"], "RDS::DBProxy")
    assert (proxy["RequireTLS"], proxy["DefaultAuthScheme"]) == (True, "IAM_AUTH")
    assert "Auth" not in proxy, "that would be a secret with a password"
    assert only(templates["Service"], "RDS::DBProxyTargetGroup")["TargetGroupName"] == "default"


@promise("guarded", set_on("Service/Proxy/ToDatabaseIn", "FromPort", 0))
def the_way_leads_from_functions_to_the_proxy_to_the_database(templates, stage):
    rules = of_type(templates["Service"], "EC2::SecurityGroupIngress")
    ways = {(as_text(each["SourceSecurityGroupId"]).partition("GroupId")[0][-20:], each["FromPort"], each["ToPort"])
            for each in rules.values()}
    assert len(ways) == 2
    assert {ports for _, *ports in map(tuple, ways) for ports in [tuple(ports)]} == {(5432, 5432)}
    assert "SecurityGroupIngress" not in only(templates["Service"], "EC2::SecurityGroup")


@promise("guarded", set_on("Api/Firewall/Association", "ResourceArn", "arn:aws:apigateway:us-east-1::/restapis/other/stages/x"))
def the_firewall_stands_before_the_api(templates, stage):
    api = templates["Api"]
    association = only(api, "WAFv2::WebACLAssociation")
    assert "/stages/<ApiDeploymentStage" in as_text(association["ResourceArn"])
    assert association["WebACLArn"]["Fn::GetAtt"][0].startswith("FirewallAcl")
    acl = only(api, "WAFv2::WebACL")
    rate = next(rule for rule in acl["Rules"] if rule["Name"] == "Rate")
    assert rate["Action"] == {"Block": {}}
    assert rate["Statement"]["RateBasedStatement"]["Limit"] == 300 * stage.throttle.rate_per_s


@promise("guarded", set_on("Api/Firewall/Acl", "Rules.2.Statement.ManagedRuleGroupStatement.RuleActionOverrides", []))
def the_firewall_lets_pictures_through(templates, stage):
    rules = only(templates["Api"], "WAFv2::WebACL")["Rules"]
    common = next(rule for rule in rules if "Common" in rule["Name"])["Statement"]["ManagedRuleGroupStatement"]
    counted = {rule["Name"] for rule in common["RuleActionOverrides"] if rule["ActionToUse"] == {"Count": {}}}
    assert {"SizeRestrictions_BODY", "CrossSiteScripting_BODY"} <= counted, "these refuse pictures above 8 kB"


@promise("guarded", set_on("Api/Api/Default/predict/POST", "AuthorizationType", "NONE"))
def requests_are_signed_but_for_health_and_preflight(templates, stage):
    unsigned = {(name, each["HttpMethod"]) for name, each in of_type(templates["Api"], "ApiGateway::Method").items()
                if each["AuthorizationType"] != "AWS_IAM"}
    assert {method for _, method in unsigned} == {"GET", "OPTIONS"}
    assert [name for name, method in unsigned if method == "GET" and "health" not in name] == []


@promise("guarded", set_on("Watch/Budget", "NotificationsWithSubscribers", []))
def the_budget_tells_who_hears_of_alarms(templates, stage):
    budget = only(templates["Watch"], "Budgets::Budget")
    assert budget["Budget"]["BudgetLimit"] == {"Amount": stage.budget_usd, "Unit": "USD"}
    assert (budget["Budget"]["TimeUnit"], "CostFilters" in budget["Budget"]) == ("MONTHLY", False), "the whole account's"
    told = budget["NotificationsWithSubscribers"]
    assert [each["Notification"]["Threshold"] for each in told] == [50, 80, 100]
    assert {each["Subscribers"][0]["Address"] for each in told} == {stage.alarm_email}


@promise("guarded", set_on("Watch/Alarms/Topic/a@example.org", "Endpoint", "b@example.org"))
def alarms_reach_the_address(templates, stage):
    subscription = only(templates["Watch"], "SNS::Subscription")
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", stage.alarm_email)


@promise("guarded", set_on("Service/Infer/Function", "Architectures", ["x86_64"]))
def all_functions_run_on_the_stage_s_processor(templates, stage):
    assert {each["Architectures"][0] for each in of_type(templates["Service"], "Lambda::Function").values()} == {"arm64"}
