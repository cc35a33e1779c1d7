"""What every stage promises of the stacks below the API: a check of the templates, and a change of the app that breaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import aws_cdk as cdk

from infra.stacks import Stacks
from infra.stages import IN_VPC, Stage
from shutterless.migrations import migrations_hash

Resources = dict[str, dict[str, Any]]
Templates = dict[str, dict[str, Any]]  # stack -> its template
BUCKETS = {"Registry": 1, "Site": 1, "Data": 2}


class Where(NamedTuple):
    """What a change of the app altered: of a stack, a resource by its logical id, or one property of it."""

    stack: str
    resource: str
    prop: str | None = None


@dataclass(frozen=True)
class Promise:
    """name: a sentence. check(templates, stage) asserts it. broken(stacks) makes it fail by changing the app, and says where, in
    the stage of this name."""

    name: str
    check: Callable[[Templates, Stage], None]
    broken: Callable[[Stacks], Where]
    stage: str = "dev"


PROMISES: list[Promise] = []


def promise(broken: Callable[[Stacks], Where]) -> Callable[[Callable[[Templates, Stage], None]], None]:
    def add(check: Callable[[Templates, Stage], None]) -> None:
        PROMISES.append(Promise(check.__name__, check, broken))
    return add


def of_type(template: dict[str, Any], kind: str) -> Resources:
    return {name: each["Properties"] for name, each in template["Resources"].items() if each["Type"] == f"AWS::{kind}"}


def only(template: dict[str, Any], kind: str, named: str = "") -> dict[str, Any]:
    found = [each for name, each in of_type(template, kind).items() if name.startswith(named)]
    assert len(found) == 1, f"{len(found)} of {kind} {named}"
    return found[0]


def set_on(path: str, prop: str, value: Any) -> Callable[[Stacks], Where]:
    """Override a property of the construct at `path`, Stack/Construct/..., in the app."""
    def change(stacks: Stacks) -> Where:
        stack, *rest = path.split("/")
        place = getattr(stacks, stack.lower())
        for name in rest:
            place = place.node.find_child(name)
        place = place.node.default_child or place
        if value is None:
            place.add_property_deletion_override(prop)
        else:
            place.add_property_override(prop, value)
        return Where(stack, cdk.Stack.of(place).resolve(place.logical_id), prop.partition(".")[0])
    return change


def add_custom_resource(stacks: Stacks) -> Where:
    added = cdk.CustomResource(stacks.data, "Another", service_token="arn:aws:lambda:us-east-1:0:function:x").node.default_child
    return Where("Data", stacks.data.resolve(added.logical_id))


def statements(template: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """Of the policy of the role whose logical id begins with `role`."""
    policies = [each for each in of_type(template, "IAM::Policy").values() if each["Roles"][0]["Ref"].startswith(role)]
    return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def actions(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return [found] if isinstance(found, str) else list(found)


def function(templates: Any, name: str) -> dict[str, Any]:
    return only(templates["Service"], "Lambda::Function", f"{name.title()}Function")


@promise(set_on("Registry/Api", "ImageTagMutability", "MUTABLE"))
def images_are_scanned_and_never_change_under_a_tag(templates, stage):
    found = of_type(templates["Registry"], "ECR::Repository")
    assert {each["RepositoryName"] for each in found.values()} == {f"shutterless-{stage.name}/api",
                                                                   f"shutterless-{stage.name}/inference"}
    for each in found.values():
        assert each["ImageTagMutability"] == "IMMUTABLE"
        assert each["ImageScanningConfiguration"] == {"ScanOnPush": True}


@promise(set_on("Registry/Inference", "LifecyclePolicy.LifecyclePolicyText", json.dumps(
    {"rules": [{"rulePriority": 1, "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 5},
                "action": {"type": "expire"}}]})))
def no_rule_expires_a_tagged_image(templates, stage):
    for each in of_type(templates["Registry"], "ECR::Repository").values():
        rules = json.loads(each["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
        assert [rule["selection"]["tagStatus"] for rule in rules] == ["untagged"]


@promise(set_on("Data/Uploads", "PublicAccessBlockConfiguration.BlockPublicPolicy", False))
def no_bucket_is_public(templates, stage):
    for stack, count in BUCKETS.items():
        found = of_type(templates[stack], "S3::Bucket")
        assert len(found) == count
        for each in found.values():
            assert set(each["PublicAccessBlockConfiguration"].values()) == {True}
            assert len(each["PublicAccessBlockConfiguration"]) == 4


@promise(set_on("Data/Models/Policy", "PolicyDocument.Statement.0.Effect", "Allow"))
def buckets_are_reached_by_tls_alone(templates, stage):
    for stack, count in BUCKETS.items():
        found = [policy["Bucket"] for policy in of_type(templates[stack], "S3::BucketPolicy").values()
                 if any(each["Effect"] == "Deny" and each["Action"] == "s3:*"
                        and each["Condition"].get("Bool") == {"aws:SecureTransport": "false"}
                        for each in policy["PolicyDocument"]["Statement"])]
        assert len(found) == count


@promise(set_on("Data/Uploads", "LifecycleConfiguration.Rules.0.NoncurrentVersionExpiration.NoncurrentDays", 30))
def pictures_have_versions_of_which_the_old_are_gone_after_a_day(templates, stage):
    uploads = only(templates["Data"], "S3::Bucket", "Uploads")
    assert uploads["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = uploads["LifecycleConfiguration"]["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    assert "ExpirationInDays" not in rule, "pictures themselves are kept"


@promise(set_on("Data/Uploads", "CorsConfiguration.CorsRules.0.AllowedOrigins", ["*"]))
def only_our_pages_may_post_forms(templates, stage):
    (rule,) = only(templates["Data"], "S3::Bucket", "Uploads")["CorsConfiguration"]["CorsRules"]
    assert rule["AllowedMethods"] == ["POST"]
    page, *others = rule["AllowedOrigins"]
    assert page["Fn::Join"][1][0] == "https://"
    assert "DomainName" in page["Fn::Join"][1][1]["Fn::ImportValue"]
    assert tuple(others) == stage.origins


@promise(set_on("Site/Distribution", "DistributionConfig.Origins.0.OriginAccessControlId", None))
def the_page_is_read_by_cloudfront_alone(templates, stage):
    site = templates["Site"]
    config = only(site, "CloudFront::Distribution")["DistributionConfig"]
    assert [list(origin["OriginAccessControlId"]) for origin in config["Origins"]] == [["Fn::GetAtt"]]
    assert config["DefaultCacheBehavior"]["ViewerProtocolPolicy"] == "redirect-to-https"
    allowed = [each for each in only(site, "S3::BucketPolicy")["PolicyDocument"]["Statement"] if each["Effect"] == "Allow"]
    assert [each["Principal"] for each in allowed] == [{"Service": "cloudfront.amazonaws.com"}]
    assert "AWS:SourceArn" in allowed[0]["Condition"]["StringEquals"]


@promise(set_on("Site/Headers", "ResponseHeadersPolicyConfig.SecurityHeadersConfig.ContentSecurityPolicy", None))
def the_page_comes_with_security_headers(templates, stage):
    headers = only(templates["Site"], "CloudFront::ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"]
    assert set(headers) == {"ContentSecurityPolicy", "ContentTypeOptions", "FrameOptions", "ReferrerPolicy",
                            "StrictTransportSecurity"}
    assert headers["ContentSecurityPolicy"]["ContentSecurityPolicy"].startswith("default-src 'none'; script-src 'self';")


@promise(set_on("Data/Uploads", "NotificationConfiguration.QueueConfigurations.0.Filter.S3Key.Rules.0.Value", "uploads/"))
def each_task_has_one_notification_to_its_own_queue(templates, stage):
    told = only(templates["Data"], "S3::Bucket", "Uploads")["NotificationConfiguration"]["QueueConfigurations"]
    assert [(each["Event"], each["Filter"]["S3Key"]["Rules"], each["Queue"]["Fn::GetAtt"][0][:13]) for each in told] == [
        ("s3:ObjectCreated:*", [{"Name": "prefix", "Value": "uploads/classify/"}], "ClassifyQueue")]


@promise(set_on("Data/Classify/Queue/Policy", "PolicyDocument.Statement.1.Condition.StringEquals.aws:SourceAccount", "*"))
def queues_are_written_by_our_bucket_alone_and_by_tls(templates, stage):
    policy = only(templates["Data"], "SQS::QueuePolicy", "ClassifyQueue")["PolicyDocument"]["Statement"]
    deny, allow = policy
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (allow["Effect"], allow["Action"], allow["Principal"]) == ("Allow", "sqs:SendMessage", {"Service": "s3.amazonaws.com"})
    assert allow["Condition"]["StringEquals"] == {"aws:SourceAccount": "000000000000"}
    assert f":s3:::shutterless-{stage.name}-data-*" in json.dumps(allow["Condition"]["ArnLike"])
    assert templates["Data"]["Resources"]["Uploads4F6EB0FD"]["DependsOn"], "S3 tries the queue when the notification is made"


@promise(set_on("Data/Classify/Queue", "VisibilityTimeout", 60))
def a_message_is_hidden_for_six_timeouts_and_given_up_after_half_an_hour_of_trying(templates, stage):
    queue = only(templates["Data"], "SQS::Queue", "ClassifyQueue")
    timeout_s = function(templates, "infer")["Timeout"]
    receives = queue["RedrivePolicy"]["maxReceiveCount"]
    assert queue["VisibilityTimeout"] >= 6 * timeout_s
    assert receives >= 5
    assert receives * queue["VisibilityTimeout"] >= 1800
    assert queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0].startswith("ClassifyDeadLetters")
    assert only(templates["Data"], "SQS::Queue", "ClassifyDeadLetters")["MessageRetentionPeriod"] == 14 * 86400


@promise(set_on("Service/Infer/Function", "Environment.Variables.SHUTTERLESS_MAX_RECEIVES", "3"))
def infer_knows_which_delivery_is_the_last(templates, stage):
    receives = only(templates["Data"], "SQS::Queue", "ClassifyQueue")["RedrivePolicy"]["maxReceiveCount"]
    assert function(templates, "infer")["Environment"]["Variables"]["SHUTTERLESS_MAX_RECEIVES"] == str(receives)


@promise(set_on("Service/Infer/Function/SqsEventSource:DataClassifyQueueC51D326B", "FunctionResponseTypes", []))
def a_failed_picture_comes_back_alone_and_the_queue_has_its_limit(templates, stage):
    source = only(templates["Service"], "Lambda::EventSourceMapping")
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["ScalingConfig"] == {"MaximumConcurrency": stage.queue_concurrency}
    assert source["BatchSize"] == stage.batch


@promise(set_on("Data/Network/Vpc/S3", "VpcEndpointType", "Interface"))
def the_network_has_no_way_out_but_the_free_gateway_to_s3(templates, stage):
    kinds = {each["Type"].removeprefix("AWS::EC2::") for each in templates["Data"]["Resources"].values()
             if each["Type"].startswith("AWS::EC2::")}
    assert kinds <= {"VPC", "Subnet", "RouteTable", "SubnetRouteTableAssociation", "VPCEndpoint", "SecurityGroup",
                     "SecurityGroupEgress", "SecurityGroupIngress"}
    endpoint = only(templates["Data"], "EC2::VPCEndpoint")
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert endpoint["ServiceName"]["Fn::Join"][1][-1] == ".s3"
    assert len(endpoint["RouteTableIds"]) == len(of_type(templates["Data"], "EC2::Subnet")) == 2


@promise(set_on("Data/Network/Vpc/S3", "PolicyDocument.Statement.0.Resource", "*"))
def the_gateway_lets_through_our_buckets_and_answers_to_cloudformation(templates, stage):
    ours, answers = only(templates["Data"], "EC2::VPCEndpoint")["PolicyDocument"]["Statement"]
    assert set(re.findall(r'"(\w+?)[0-9A-F]{8}"', json.dumps(ours["Resource"]))) == {"Uploads", "Models"}
    assert answers["Action"] == "s3:PutObject"
    assert ":s3:::cloudformation-custom-resource-response-*/*" in json.dumps(answers["Resource"])


@promise(set_on("Data/Network/Functions", "SecurityGroupEgress.0.IpProtocol", "-1"))
def functions_in_the_network_call_nothing_but_s3_and_postgresql(templates, stage):
    data = templates["Data"]
    (s3,) = only(data, "EC2::SecurityGroup", "NetworkFunctions")["SecurityGroupEgress"]
    assert (s3["IpProtocol"], s3["FromPort"], s3["ToPort"]) == ("tcp", 443, 443)
    assert {(each["FromPort"], each["ToPort"]) for each in of_type(data, "EC2::SecurityGroupEgress").values()} == {(5432, 5432)}
    for name in IN_VPC:
        services = {action.partition(":")[0] for each in statements(templates["Service"], f"{name.title()}Role")
                    for action in actions(each)}
        # logs, ec2 and sqs are called by Lambda itself, from outside, in the function's name.
        assert services <= {"logs", "ec2", "s3", "rds-db"} | ({"sqs"} if name == "infer" else set())


@promise(set_on("Data/Database/Instance", "PubliclyAccessible", True))
def the_database_is_reached_by_functions_alone(templates, stage):
    data = templates["Data"]
    assert only(data, "RDS::DBInstance")["PubliclyAccessible"] is False
    assert "SecurityGroupIngress" not in only(data, "EC2::SecurityGroup", "NetworkDatabases")
    (rule,) = of_type(data, "EC2::SecurityGroupIngress").values()
    assert rule["SourceSecurityGroupId"]["Fn::GetAtt"][0].startswith("NetworkFunctions")


@promise(set_on("Data/Database/Parameters", "Parameters", {"max_connections": "1"}))
def the_database_is_encrypted_and_forces_tls(templates, stage):
    parameters = only(templates["Data"], "RDS::DBParameterGroup")["Parameters"]
    assert parameters == {"rds.force_ssl": "1", "max_connections": str(stage.database.max_connections)}
    assert only(templates["Data"], "RDS::DBInstance")["StorageEncrypted"] is True


@promise(set_on("Data/Database/Instance", "MasterUserPassword", "secret"))
def no_password_exists_and_everybody_logs_in_by_iam(templates, stage):
    if not stage.iam_database:
        return  # the emulator's
    instance = only(templates["Data"], "RDS::DBInstance")
    assert (instance["MasterUserAuthenticationType"], instance["EnableIAMDatabaseAuthentication"]) == ("iam-db-auth", True)
    below = json.dumps([templates["Data"], templates["Service"]])
    assert not re.search(r"Password|SecretsManager|SHUTTERLESS_ROLE_PASSWORD", below)
    for name in ("upload", "query", "infer", "migrate"):
        environment = function(templates, name)["Environment"]["Variables"]
        assert environment["SHUTTERLESS_DATABASE_AUTH"] == "iam"
        assert environment["SHUTTERLESS_DATABASE_CA"] == "/var/task/database-ca.pem"


@promise(set_on("Data/Database/Instance", "BackupRetentionPeriod", 35))
def backups_and_protection_are_as_the_stage_says(templates, stage):
    wanted, instance = stage.database, only(templates["Data"], "RDS::DBInstance")
    assert (instance["BackupRetentionPeriod"], instance["DeletionProtection"], instance["MultiAZ"]) == (
        wanted.backup_days, wanted.is_protected, wanted.in_two_zones)
    kept = {each["Type"] for each in templates["Data"]["Resources"].values()
            if each.get("DeletionPolicy") in ("Retain", "Snapshot")}
    assert kept == ({"AWS::S3::Bucket", "AWS::RDS::DBInstance"} if stage.keeps_data else set())


@promise(set_on("Service/Query/Function", "MemorySize", 10240))
def sizes_are_as_the_stage_says(templates, stage):
    for name, size in stage.functions.items():
        found = function(templates, name)
        assert (found["MemorySize"], found["Timeout"], found.get("ReservedConcurrentExecutions")) == (
            size.memory_mb, size.timeout_s, size.reserved)
        assert found["Architectures"] == [stage.architecture]
        assert found["Environment"]["Variables"]["SHUTTERLESS_STAGE"] == stage.name


@promise(set_on("Service/Predict/Log", "RetentionInDays", None))
def every_function_has_a_role_and_a_log_of_its_own(templates, stage):
    service = templates["Service"]
    found = of_type(service, "Lambda::Function")
    assert len({each["Role"]["Fn::GetAtt"][0] for each in found.values()}) == len(found) == 5
    assert len({each["LoggingConfig"]["LogGroup"]["Ref"] for each in found.values()}) == 5
    assert {each["RetentionInDays"] for each in of_type(service, "Logs::LogGroup").values()} == {stage.log_days}
    assert all("ManagedPolicyArns" not in each for each in of_type(service, "IAM::Role").values())


@promise(set_on("Service/Upload/Function", "VpcConfig", None))
def all_functions_but_predict_are_in_the_network(templates, stage):
    inside = {name for name in stage.functions if "VpcConfig" in function(templates, name)}
    assert inside == set(IN_VPC)
    assert "DATABASE_URL" not in function(templates, "predict")["Environment"]["Variables"]


@promise(set_on("Service/Schema", "Migrations", "always the same"))
def the_schema_is_migrated_before_functions_that_need_it(templates, stage):
    service = templates["Service"]["Resources"]
    assert service["Schema"]["Type"] == "Custom::ShutterlessSchema"
    assert service["Schema"]["Properties"]["Migrations"] == migrations_hash()
    assert service["Schema"]["Properties"]["ServiceToken"]["Fn::GetAtt"][0].startswith("MigrateFunction")
    assert any(name.startswith("MigrateRoleDefaultPolicy") for name in service["Schema"]["DependsOn"])
    waiting = {name[:6] for name, each in service.items() if each["Type"] == "AWS::Lambda::Function"
               and "Schema" in each.get("DependsOn", [])}
    assert waiting == {"Upload", "QueryF", "InferF"}


@promise(add_custom_resource)
def no_other_custom_resource_exists(templates, stage):
    custom = {name for stack in ("Registry", "Site", "Data", "Service") for name, each in templates[stack]["Resources"].items()
              if each["Type"].startswith(("Custom::", "AWS::CloudFormation::CustomResource"))}
    assert custom == {"Schema"}
    assert sum(len(of_type(templates[stack], "Lambda::Function")) for stack in ("Registry", "Site", "Data", "Service")) == 5


@promise(set_on("Service/Upload/Role/DefaultPolicy", "PolicyDocument.Statement.3.Resource", "*"))
def each_function_logs_in_as_its_own_user_alone(templates, stage):
    users = {"upload": ["shutterless_upload"], "query": ["shutterless_query"], "infer": ["shutterless_infer"],
             "migrate": ["shutterless_owner", "shutterless_reader"]}
    for name, own in users.items():
        assert f"//{own[0]}" in json.dumps(function(templates, name)["Environment"]["Variables"]["DATABASE_URL"])
        granted = [each["Resource"] for each in statements(templates["Service"], f"{name.title()}Role")
                   if "rds-db:connect" in actions(each)]
        assert [arn["Fn::Join"][1][-1] for arn in granted] == [f"/{user}" for user in own] * stage.iam_database


@promise(lambda stacks: stacks.service.workers["migrate"].target.add_function_url())
def only_who_may_invoke_migrate_in_the_account_reaches_it(templates, stage):
    doors = {name: each for stack in ("Service", "Api") for kind in ("Permission", "Url", "EventSourceMapping")
             for name, each in of_type(templates[stack], f"Lambda::{kind}").items()}
    assert doors
    assert not [name for name, each in doors.items() if "Migrate" in json.dumps(each)]
    assert "Migrate" not in json.dumps(of_type(templates["Api"], "ApiGateway::Method"))


@promise(set_on("Service/Infer/Role/DefaultPolicy", "PolicyDocument.Statement.2.Action", "s3:DeleteObject"))
def only_query_deletes_pictures_and_only_upload_writes_them(templates, stage):
    may = {name: {action for each in statements(templates["Service"], f"{name.title()}Role") for action in actions(each)}
           for name in stage.functions}
    assert {name for name, all_of_it in may.items() if "s3:DeleteObject" in all_of_it} == {"query"}
    assert {name for name, all_of_it in may.items() if "s3:PutObject" in all_of_it} == {"upload"}
    assert {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions"} <= may["infer"]
    assert not any(action.endswith("*") for all_of_it in may.values() for action in all_of_it)


@promise(set_on("Service/Predict/Function", "Environment.Variables.MODEL_URI", "s3://elsewhere/model"))
def the_model_is_baked_in_or_held_to_its_digest(templates, stage):
    uris = [function(templates, name)["Environment"]["Variables"].get("MODEL_URI") for name in ("infer", "predict")]
    if stage.model_from == "image":
        assert uris == [None, None]
    else:
        bucket = rf"s3://shutterless-{stage.name}-models-0+-us-east-1"
        assert re.fullmatch(rf"{bucket}/models/(\w{{16}})/[\w-]+/[\w.]+@sha256:\1\w{{48}}", uris[0])
        assert uris[0] == uris[1]
