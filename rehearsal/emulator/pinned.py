"""The emulator's internals that this folder stands on, held to the text that was read. A change is met here, not in a deploy."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version

VERSION = "1.5.33"
# What is called or replaced -> the first 16 digits of its source's SHA-256.
SOURCES = {
    "services.ecr:_describe_images": "86c7f7b273ab2316",
    "services.cloudformation.provisioners:_cw_metric_alarm_record": "4565fcede1ebf266",
    "services.cloudformation.provisioners:_ec2_vpc_create": "4920746a78254f7a",
    "services.cloudformation.provisioners:_ec2_vpc_update": "4e762c188f5488c1",
    "services.cloudformation.provisioners:_ec2_sg_permissions": "fa71231f925a9c9f",
    "services.cloudformation.provisioners:_rds_db_instance_create": "c81a8d083eb0ec6a",
    "services.cloudformation.provisioners:_rds_db_instance_delete": "86c436bd67ade8fc",
    "services.cloudformation.provisioners:_provision_resource": "3b8f01fb187141b6",
    "services.cloudformation.provisioners:_delete_resource": "9e9ba54fb4281d65",
    "services.rds:_run_rds_container": "0d96d7c7c0b5cb4b",
    "services.rds:_wait_for_port": "727ca9126ed6c4a7",
    "services.rds:_get_docker": "a161d31a7eef7c5c",
    "services.s3:_bucket_has_versions": "5d9c3498be681a6f",
    "services.cloudformation.provisioners:_s3_delete": "52bcaf59bd5bbc39",
    "services.sqs:_dispatch": "6a429fdb61ebdc5a",
    "services.sqs:_queue_by_arn": "b4981875c8186c19",
    "services.sqs:_act_send_message": "3abd766508c885c6",
    "services.sqs:_dlq_sweep": "6a77691e16715a0d",
    "services.cloudwatch_logs:_append_log_events": "e47cae7a15a4cc46",
    "services.cloudwatch_logs:_filter_log_events": "9b3d13c713b5d3cb",
    "core.container_reaper:own_labels": "130862f676d807f3",
}


def changes() -> Iterator[str]:
    """What differs from the emulator that this folder was written for, a sentence each."""
    if version("ministack") != VERSION:
        yield f"Expected ministack {VERSION}, got {version('ministack')}."
    for name, digest in SOURCES.items():
        found = source_digest(name)
        if found != digest:
            yield f"ministack.{name}: expected source {digest}, got {found}. Read it again, then pin it in {__name__}."


def source_digest(name: str) -> str:
    """Of "services.ecr:_describe_images", a function's or class's source; "none" where there is no such thing."""
    module, _, attribute = name.partition(":")
    try:
        thing = getattr(import_module(f"ministack.{module}"), attribute)
    except (ImportError, AttributeError):
        return "none"
    return hashlib.sha256(inspect.getsource(inspect.unwrap(thing)).encode()).hexdigest()[:16]
