"""The rehearsal from its first step to its last, and what is taken away when it ends, wherever it ends."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType

from rich.console import Console

from rehearsal import emulator_process
from rehearsal.account import Account
from rehearsal.cdk import STAGE, Cdk
from rehearsal.client import Client
from rehearsal.docker_client import bridge_address, build_postgres, choose_base, image_names
from rehearsal.duties import Duties
from rehearsal.emulator_process import ROOT, Place, end_of
from rehearsal.gaps import read_gaps
from rehearsal.inventory import Inventory
from rehearsal.operator import Operator
from rehearsal.project import copy_project, edit_handler
from rehearsal.scenes import Scenes
from rehearsal.traces import RUN, Traces, alone, read_traces
from rehearsal.watched import Steps, expect

LAST_WORDS = 40  # lines of the emulator's log
POSTGRES = "shutterless-rehearsal-postgres:latest"


def rehearse(console: Console, *, keep: bool, base_image: str) -> int:
    """0 when all went as it should. Ends with a table of what was rehearsed and what was not."""
    steps, began = Steps(console), time.monotonic()
    try:
        with alone(), _interruptible():
            _take_away_old(console)
            with ExitStack() as ending:
                _play(steps, ending, keep=keep, base_image=base_image)
    except Exception as error:  # the step told it; the table is worth more than a trace
        if not steps.has_failed:
            raise
        console.print(f"Ended early: {type(error).__name__}.", style="red", markup=False)
    except KeyboardInterrupt:
        console.print("Interrupted; all that was started is taken away.", style="red")
        return 130
    console.print(steps.table(read_gaps()))
    console.print(f"{'Failed' if steps.has_failed else 'Rehearsed'} in {time.monotonic() - began:.0f} s.", style="bold")
    return int(steps.has_failed)


def _take_away_old(console: Console) -> None:
    """What a rehearsal left that was kept, or killed before it could end."""
    old = read_traces()
    if old:
        old.take_away()
        console.print("The rehearsal that was kept is ended." if old.is_kept else
                      "An earlier rehearsal was killed: what it left is taken away.")


def stop_kept(console: Console) -> int:
    """End what a rehearsal with KEEP=1 left running."""
    with alone():
        if not read_traces():
            console.print("No rehearsal was kept.")
        _take_away_old(console)
    return 0


def _play(steps: Steps, ending: ExitStack, *, keep: bool, base_image: str) -> None:
    with emulator_process.free_place(bridge_address()) as place:
        traces = Traces(place, sorted(image_names()))
        shutil.rmtree(RUN, ignore_errors=True)
        RUN.mkdir(parents=True)
        traces.write()
        ending.push(lambda kind, error, trace: _leave_nothing(steps, traces, is_told=kind is not KeyboardInterrupt))
        with steps.step("PostgreSQL's image"):
            build_postgres(POSTGRES, ROOT / "rehearsal/postgres", RUN)
            base = choose_base(base_image)
    with steps.step(f"the emulator, on port {place.port}"):
        emulator_process.start(place, RUN, POSTGRES)
    with steps.step("a copy of the project"):
        copy_project(RUN / "project")
    cdk = Cdk(place, RUN, RUN / "project", base)
    operator = Operator(place, RUN, RUN / "project")
    with steps.step("cdk bootstrap"):
        cdk.bootstrap()
    bare = _contents(Account(place))
    with steps.step("cdk deploy --all, into an account that was only bootstrapped") as step:
        cdk.deploy()
        step.notes.append(f"{len(cdk.pushed())} images pushed")
    _look_and_drive(steps, place, operator)
    _deploy_again(steps, place, cdk)
    if keep:
        ending.pop_all()
        replace(traces, is_kept=True).write()
        _tell_how_to_ask(steps.console, place)
        return
    with steps.step("shutterless destroy, as make destroy calls it"):
        operator.run("destroy")
    with steps.check("the account holds what it held before the deploy, and no more"):
        _expect_as_before(bare, _contents(Account(place)))


def _look_and_drive(steps: Steps, place: Place, operator: Operator) -> None:
    account = Account(place)
    for name, look in Inventory(account).all():
        with steps.check(name) as step:
            look(step)
    client = client_of(account)
    for name, scene in (*Scenes(client, account).all(), *Duties(client, account, operator).all()):
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


def _leave_nothing(steps: Steps, traces: Traces, *, is_told: bool) -> None:
    """Takes away all of the run, and looks whether anything is left. Where a step failed, the emulator's last words are told."""
    _be_deaf()
    if steps.has_failed and is_told:
        steps.console.print(end_of(RUN / "emulator.log", LAST_WORDS), style="dim", markup=False)
    with steps.check("nothing is left on this machine"):
        traces.take_away()
        left = traces.left()
        expect(not left, f"expected nothing of this run, got {', '.join(left)}")


def _tell_how_to_ask(console: Console, place: Place) -> None:
    """Lines for a shell: what has to be set, and one of each kind to try."""
    account = Account(place)
    client = client_of(account)
    console.print("The rehearsed stage is left running. For a shell:", style="bold")
    for line in (*(f"export {name}={text}" for name, text in place.environment().items()),
                 f"curl -H 'x-api-key: {client.key}' {client.base}/stats",
                 f"curl -H 'x-api-key: {client.key}' -F file=@tile.jpg {client.base}/predict",
                 "aws cloudformation describe-stacks --query 'Stacks[].StackName'",
                 f"psql '{account.database_url}' -c 'table results'", f".venv/bin/shutterless logs {STAGE}"):
        console.print(line, markup=False)
    console.print("It ends with: make rehearse ARGS=stop", style="bold")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM is as Ctrl-C; while what was started is taken away, neither counts a second time."""
    def interrupt(number: int, frame: FrameType | None) -> None:
        _be_deaf()
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _be_deaf() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
