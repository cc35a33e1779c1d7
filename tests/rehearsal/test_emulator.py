"""The completed emulator, asked as CDK asks it: what it lacked is there, and what it is pinned to has not changed."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.emulator_process import PYTHON, ROOT

pytestmark = pytest.mark.needs("docker", "emulator")
Aws = Callable[[str], Any]


def deploy(aws: Aws, resources: dict[str, Any], outputs: dict[str, Any] | None = None) -> tuple[str, dict[str, str]]:
    """A stack of these resources: its name and outputs."""
    name, cloudformation = f"test-{uuid.uuid4().hex[:8]}", aws("cloudformation")
    template = {"Resources": resources, "Outputs": {key: {"Value": value} for key, value in (outputs or {}).items()}}
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 100})
    stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    return name, {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def in_the_emulators_environment(program: str) -> Any:
    done = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_internals_that_we_stand_on_are_those_that_were_read():
    """Fails when the emulator is another version, or a function that we call or replace is written otherwise."""
    assert in_the_emulators_environment(
        "import json; from rehearsal.emulator.pinned import changes; print(json.dumps(list(changes())))") == []


def test_a_change_of_those_internals_is_told_by_name():
    changed = in_the_emulators_environment(
        "import json; from rehearsal.emulator import pinned; pinned.VERSION = '0.1';"
        "pinned.SOURCES = {'services.ecr:_describe_images': 'other', 'services.ecr:_gone': 'other'};"
        "print(json.dumps(list(pinned.changes())))")
    assert [name in sentence for name, sentence in
            zip(("0.1", "services.ecr:_describe_images", "services.ecr:_gone"), changed, strict=True)] == [True] * 3


def test_a_vpc_tells_its_address_range(aws: Aws):
    vpc = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.7.0.0/16"}}
    _, outputs = deploy(aws, {"Vpc": vpc}, {"Range": {"Fn::GetAtt": ["Vpc", "CidrBlock"]}})
    assert outputs == {"Range": "10.7.0.0/16"}


def test_a_rule_beside_its_security_group_is_listed(aws: Aws):
    group = {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": "a group"}}
    rule = {"Type": "AWS::EC2::SecurityGroupIngress", "Properties": {
        "GroupId": {"Fn::GetAtt": ["Group", "GroupId"]}, "IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432,
        "CidrIp": "10.0.0.0/8"}}
    _, outputs = deploy(aws, {"Group": group, "Rule": rule}, {"Id": {"Fn::GetAtt": ["Group", "GroupId"]}})
    listed = aws("ec2").describe_security_groups(GroupIds=[outputs["Id"]])["SecurityGroups"][0]["IpPermissions"]
    assert [(one["FromPort"], one["IpRanges"][0]["CidrIp"]) for one in listed] == [(5432, "10.0.0.0/8")]


def test_an_image_that_is_not_there_is_not_found(aws: Aws):
    """Otherwise CDK believes it pushed already, and the deploy is green without an image."""
    ecr, name = aws("ecr"), f"test-{uuid.uuid4().hex[:8]}"
    ecr.create_repository(repositoryName=name)
    with pytest.raises(ecr.exceptions.ImageNotFoundException):
        ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": "none"}])
    assert ecr.describe_images(repositoryName=name)["imageDetails"] == []


def test_an_alarm_on_a_formula_is_listed_with_what_it_says_and_whom_it_tells(aws: Aws):
    topic = aws("sns").create_topic(Name="alarms")["TopicArn"]
    metric = {"Id": "a", "MetricStat": {"Metric": {"Namespace": "N", "MetricName": "M"}, "Period": 60, "Stat": "Sum"}}
    alarm = {"Type": "AWS::CloudWatch::Alarm", "Properties": {
        "AlarmDescription": "Look there, do that.", "Metrics": [{"Id": "b", "Expression": "a * 2"}, metric],
        "ComparisonOperator": "GreaterThanThreshold", "Threshold": 3, "EvaluationPeriods": 1, "AlarmActions": [topic]}}
    _, outputs = deploy(aws, {"Alarm": alarm}, {"Name": {"Ref": "Alarm"}})
    listed = aws("cloudwatch").describe_alarms(AlarmNames=[outputs["Name"]])["MetricAlarms"]
    assert [(one["AlarmDescription"], one["Threshold"], one["AlarmActions"]) for one in listed] == [
        ("Look there, do that.", 3, [topic])]


def test_dead_letters_go_back_to_their_queue_as_new_messages(aws: Aws):
    sqs, name = aws("sqs"), uuid.uuid4().hex[:8]
    dead = sqs.create_queue(QueueName=f"dead-{name}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1}), "VisibilityTimeout": "0"}
    queue = sqs.create_queue(QueueName=f"queue-{name}", Attributes=attributes)["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="a message")

    def received(url: str) -> list[tuple[str, str]]:
        answer = sqs.receive_message(QueueUrl=url, AttributeNames=["All"], VisibilityTimeout=0)
        return [(one["Body"], one["Attributes"]["ApproximateReceiveCount"]) for one in answer.get("Messages", [])]

    assert received(queue) == [("a message", "1")]
    assert received(queue) == []
    assert [body for body, _ in received(dead)] == ["a message"]
    sqs.start_message_move_task(SourceArn=arn)
    assert received(queue) == [("a message", "1")]
    assert sqs.list_message_move_tasks(SourceArn=arn)["Results"][0]["ApproximateNumberOfMessagesMoved"] == 1


def test_every_line_of_a_log_has_an_id_of_its_own(aws: Aws):
    """By it, who follows a log knows a line again."""
    logs, name = aws("logs"), f"test-{uuid.uuid4().hex[:8]}"
    logs.create_log_group(logGroupName=name)
    logs.create_log_stream(logGroupName=name, logStreamName="one")
    logs.put_log_events(logGroupName=name, logStreamName="one", logEvents=[
        {"timestamp": round(1000 * time.time()), "message": "the same"} for _ in range(2)])
    first, again = (logs.filter_log_events(logGroupName=name)["events"] for _ in range(2))
    assert len({event["eventId"] for event in first}) == 2
    assert [event["eventId"] for event in first] == [event["eventId"] for event in again]


def test_a_bucket_that_holds_something_is_not_deleted(aws: Aws):
    """As on AWS, where a destroy that forgot to empty it fails."""
    name, outputs = deploy(aws, {"Bucket": {"Type": "AWS::S3::Bucket"}}, {"Name": {"Ref": "Bucket"}})
    aws("s3").put_object(Bucket=outputs["Name"], Key="kept", Body=b"x")
    aws("cloudformation").delete_stack(StackName=name)
    waiter = aws("cloudformation").get_waiter("stack_delete_complete")
    with pytest.raises(Exception, match="terminal failure"):
        waiter.wait(StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 50})
    assert aws("s3").get_object(Bucket=outputs["Name"], Key="kept")["Body"].read() == b"x"
    aws("s3").delete_object(Bucket=outputs["Name"], Key="kept")
    aws("cloudformation").delete_stack(StackName=name)
    waiter.wait(StackName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 50})
    with pytest.raises(ClientError, match=r"404|Not Found"):
        aws("s3").head_bucket(Bucket=outputs["Name"])
