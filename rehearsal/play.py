"""The rehearsal from its first step to its last, and what is taken away when it ends, wherever it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from rehearsal import emulator_process
from rehearsal.account import Account
from rehearsal.cdk import Cdk
from rehearsal.client import Client
from rehearsal.docker_client import (
    bridge_address,
    build_postgres,
    choose_base,
    containers,
    image_names,
    remove_containers,
    remove_image_names,
)
from rehearsal.emulator_process import ROOT, Place
from rehearsal.gaps import read_gaps
from rehearsal.inventory import Inventory
from rehearsal.project import copy_project, edit_handler
from rehearsal.scenes import Scenes
from rehearsal.watched import Steps, expect
from shutterless.errors import BadSettings

STATE = ROOT / "var/rehearsal"
RUN = STATE / "run"
KEPT = STATE / "kept.json"
POSTGRES = "shutterless-rehearsal-postgres:latest"
REGISTRIES = ("localhost:", "000000000000.dkr.ecr.", "cdkasset-")  # how the names of what CDK builds and pushes begin


def rehearse(console: Console, *, keep: bool, base_image: str) -> int:
    """0 when all went as it should. Ends with a table of what was rehearsed and what was not."""
    if KEPT.exists():
        stop_kept(console)
    steps, began = Steps(console), time.monotonic()
    try:
        with _interruptible(), ExitStack() as ending:
            _play(steps, ending, keep=keep, base_image=base_image)
    except Exception as error:  # the step told it; the table is worth more than a trace
        if not steps.done or steps.done[-1].failure is None:
            raise
        console.print(f"Ended early: {type(error).__name__}.", style="red", markup=False)
    except KeyboardInterrupt:
        if KEPT.exists():
            stop_kept(console)
        console.print("Interrupted; all that was started is taken away.", style="red")
        return 130
    console.print(steps.table(read_gaps()))
    console.print(f"{'Failed' if steps.has_failed else 'Rehearsed'} in {time.monotonic() - began:.0f} s.", style="bold")
    return int(steps.has_failed)


def _play(steps: Steps, ending: ExitStack, *, keep: bool, base_image: str) -> None:
    with steps.step("PostgreSQL's image"):
        build_postgres(POSTGRES, ROOT / "rehearsal/postgres")
        base = choose_base(base_image)
    before = image_names()
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    place = emulator_process.free_place(bridge_address())
    with steps.step(f"the emulator, on port {place.port}"):
        process = emulator_process.start(place, RUN, POSTGRES)
    if not keep:
        ending.callback(_leave_nothing, steps, place, before)
        ending.callback(emulator_process.stop, place, process)
    else:
        KEPT.write_text(json.dumps({"pid": process.pid, "address": place.address, "port": place.port, "images": sorted(before)}))
    with steps.step("a copy of the project"):
        copy_project(RUN / "project")
    cdk = Cdk(place, RUN, RUN / "project", base)
    with steps.step("cdk bootstrap"):
        cdk.bootstrap()
    bare = _contents(Account(place))
    with steps.step("cdk deploy --all, into an account that was only bootstrapped") as step:
        cdk.deploy()
        step.notes.append(f"{len(cdk.pushed())} images pushed")
    _look_and_drive(steps, place)
    _deploy_again(steps, place, cdk)
    if keep:
        _tell_how_to_ask(steps.console, place)
        return
    with steps.step("shutterless destroy, as make destroy calls it"):
        cdk.destroy()
    with steps.check("the account holds what it held before the deploy, and no more"):
        _expect_as_before(bare, _contents(Account(place)))


def _look_and_drive(steps: Steps, place: Place) -> None:
    account = Account(place)
    for name, look in Inventory(account).all():
        with steps.check(name) as step:
            look(step)
    for name, scene in Scenes(client_of(account), account).all():
        with steps.check(name) as step:
            scene(step)


def _deploy_again(steps: Steps, place: Place, cdk: Cdk) -> None:
    first, pushed = Account(place), cdk.pushed()
    made, rows = _physical_ids(first), first.rows("SELECT count(*) FROM results")
    with steps.check("cdk deploy once more, unchanged: nothing is pushed or replaced"):
        cdk.deploy()
        expect(cdk.pushed() == pushed, f"expected no push, got {cdk.pushed()[len(pushed):]}")
        _expect_same(made, _physical_ids(Account(place)))
    with steps.check("cdk deploy with an edited handler: the new code answers, the data stays") as step:
        edit_handler(cdk.project)
        cdk.deploy()
        expect(len(cdk.pushed()) > len(pushed), "expected new images to be pushed")
        account = Account(place)
        _expect_same(made, _physical_ids(account), apart=("AWS::ApiGateway::Deployment", "AWS::Lambda::Version"))
        answer = client_of(account).ask("GET", "/health", expect=200)
        expect(answer.headers.get("x-rehearsal") == "edited", "expected the edited handler to answer")
        expect(account.rows("SELECT count(*) FROM results") == rows, "expected all rows to be there still")
        step.notes.append(f"{len(cdk.pushed()) - len(pushed)} images pushed")


def client_of(account: Account) -> Client:
    """A client of the deployed API, with its key."""
    api, stage = account.api
    return Client(f"{account.place.url}/_aws/execute-api/{api}/{stage}", account.key)


def _physical_ids(account: Account) -> dict[tuple[str, str, str], str]:
    return {(resource["StackName"], resource["LogicalResourceId"], resource["ResourceType"]): resource["PhysicalResourceId"]
            for resource in account.resources}


def _expect_same(before: dict[tuple[str, str, str], str], after: dict[tuple[str, str, str], str],
                 apart: tuple[str, ...] = ()) -> None:
    changed = sorted(key[1] for key in before.keys() | after.keys() if key[2] not in apart and before.get(key) != after.get(key))
    expect(not changed, f"expected no resource to be replaced, got {', '.join(changed)}")


def _contents(account: Account) -> dict[str, set[str]]:
    """Names of what costs money or stands in the way of the next deploy, by kind."""
    pages, client = account.pages, account.client
    return {
        "stacks": set(account.stacks),
        "functions": {one["FunctionName"] for one in pages("lambda", "list_functions", "Functions")},
        "event sources": {one["UUID"] for one in pages("lambda", "list_event_source_mappings", "EventSourceMappings")},
        "repositories": {one["repositoryName"] for one in pages("ecr", "describe_repositories", "repositories")},
        "buckets": {one["Name"] for one in client("s3").list_buckets()["Buckets"]},
        "queues": set(client("sqs").list_queues().get("QueueUrls", [])),
        "databases": {one["DBInstanceIdentifier"] for one in client("rds").describe_db_instances()["DBInstances"]},
        "VPCs": {one["VpcId"] for one in client("ec2").describe_vpcs()["Vpcs"]},
        "APIs": {one["id"] for one in client("apigateway").get_rest_apis()["items"]},
        "API keys": {one["id"] for one in client("apigateway").get_api_keys()["items"]},
        "logs": {one["logGroupName"] for one in pages("logs", "describe_log_groups", "logGroups")},
        "alarms": {one["AlarmName"] for one in client("cloudwatch").describe_alarms()["MetricAlarms"]},
        "dashboards": {one["DashboardName"] for one in client("cloudwatch").list_dashboards()["DashboardEntries"]},
        "topics": {one["TopicArn"] for one in pages("sns", "list_topics", "Topics")},
        "roles": {one["RoleName"] for one in pages("iam", "list_roles", "Roles")},
    }


def _expect_as_before(before: dict[str, set[str]], after: dict[str, set[str]]) -> None:
    left = {kind: sorted(names - before[kind]) for kind, names in after.items() if names - before[kind]}
    expect(not left, f"expected what was there before the deploy and no more, got {left}")
    gone = {kind: sorted(names - after[kind]) for kind, names in before.items() if names - after[kind]}
    expect(not gone, f"expected all that was there before the deploy, gone: {gone}")


def _leave_nothing(steps: Steps, place: Place, images_before: set[str]) -> None:
    """Names of images, files, and a look whether any container is left. Runs when the emulator has ended."""
    with steps.check("nothing is left on this machine"):
        remove_containers(place.label)
        added = {name for name in image_names() - images_before if name.startswith(REGISTRIES)}
        remove_image_names(added)
        log = (RUN / "emulator.log").read_text(errors="replace") if steps.has_failed else ""
        shutil.rmtree(RUN, ignore_errors=True)
        if log:
            (STATE / "last-failure.log").write_text(log)
        expect(not containers(place.label) and not RUN.exists(), "expected no container and no file of this run")


def stop_kept(console: Console) -> int:
    """End what a rehearsal with KEEP=1 left running."""
    if not KEPT.exists():
        console.print("No rehearsal was kept.")
        return 0
    kept = json.loads(KEPT.read_text())
    place = Place(kept["address"], kept["port"])
    _end(kept["pid"])
    remove_containers(place.label)
    remove_image_names({name for name in image_names() - set(kept["images"]) if name.startswith(REGISTRIES)})
    shutil.rmtree(RUN, ignore_errors=True)
    KEPT.unlink()
    console.print("The rehearsal that was kept is ended.")
    return 0


def _end(pid: int) -> None:
    """A process that may have ended long ago, and whose id may be another's by now: only an emulator of ours is ended."""
    try:
        is_ours = b"rehearsal.emulator" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return
    for ending in (signal.SIGTERM, signal.SIGKILL):
        if not is_ours:
            return
        os.kill(pid, ending)
        deadline = time.monotonic() + emulator_process.STOP_S
        while time.monotonic() < deadline:
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.2)
    raise BadSettings(f"The emulator, process {pid}, does not end.")


def _tell_how_to_ask(console: Console, place: Place) -> None:
    account = Account(place)
    client = client_of(account)
    for name, text in place.environment().items():
        console.print(f"export {name}={text}", markup=False)
    console.print(f"curl -H 'x-api-key: {client.key}' {client.base}/stats", markup=False)
    console.print("Ends with: make rehearse ARGS=stop", markup=False)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM is as Ctrl-C; while what was started is taken away, neither counts a second time."""
    def interrupt(number: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
