"""RDS: a database that CloudFormation makes is a PostgreSQL in a container. The emulator only notes it down."""

from __future__ import annotations

import os
from typing import Any

from ministack.core import container_reaper
from ministack.core.responses import get_account_id, get_region
from ministack.services.cloudformation import provisioners

from rehearsal.emulator.handlers import TABLE, Made, Properties

RDS = provisioners._rds
TYPE = "AWS::RDS::DBInstance"
PORT = 5432
START_S = 60
MEMORY = "512m"  # of the tmpfs that holds the tables: nothing of them is on disk

_create, _delete = TABLE[TYPE]["create"], TABLE[TYPE]["delete"]


def complete() -> None:
    """AWS::RDS::DBInstance."""
    TABLE[TYPE].update(create=create, delete=delete)


def create(logical_id: str, properties: Properties, stack: str) -> Made:
    """Start the container, and wait until it takes connections. Raises ValueError when it does not."""
    name, known = _create(logical_id, properties, stack)
    instance = RDS._instances[name]
    container = RDS._run_rds_container(RDS._get_docker(), instance["Engine"], _container(name, instance))
    instance["_docker_container_id"] = container.id
    container.reload()
    address = container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    if not RDS._wait_for_port(address, PORT, START_S):
        raise ValueError(f"{name}: PostgreSQL does not answer within {START_S} s: {container.logs(tail=20).decode()}")
    instance["Endpoint"].update(Address=address, Port=PORT)
    return name, {**known, "Endpoint.Address": address, "Endpoint.Port": str(PORT)}


def delete(name: str, properties: Properties) -> None:
    """Its container goes with it."""
    container = RDS._instances.get(name, {}).get("_docker_container_id")
    if container:
        RDS._get_docker().containers.get(container).remove(force=True, v=True)
    _delete(name, properties)


def _container(name: str, instance: dict[str, Any]) -> dict[str, Any]:
    """What docker-py's run takes. No port is published: functions and this machine reach the container by its own address."""
    return {"image": os.environ["REHEARSAL_POSTGRES"], "detach": True, "name": f"shutterless-rehearsal-{name}"[:63],
            "environment": {"MASTER_USER": instance["MasterUsername"], "MASTER_PASSWORD": instance["_MasterUserPassword"],
                            "DATABASE": instance["DBName"]},
            "entrypoint": ["docker-entrypoint.sh"], "network": "bridge",
            "tmpfs": {"/var/lib/postgresql/data": f"rw,nosuid,size={MEMORY}"},
            "labels": {**container_reaper.own_labels("rds"), "db_id": name, "account_id": get_account_id(),
                       "region": get_region()}}
