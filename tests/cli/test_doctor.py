"""shutterless doctor: what is missing on this machine and in the account, each with what mends it. The account is a server."""

import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cli import doctor
from cli.main import main
from infra.account_checks import BOOTSTRAP, check_account
from infra.deployed import Deployed
from infra.stages import STAGES, Function, Stage

DEV = STAGES["dev"]


@dataclass
class Account:
    """What an account answers. bootstrap: its version, None where there is none. reserved: copies, by function; the stage's are
    those of its stack. log_role: of API Gateway, which roles are there. is_refused: by its own policies."""

    bootstrap: int | None = 28
    concurrency: int = 1000
    reserved: dict[str, int] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    log_role: str | None = None
    has_log_role: bool = True
    is_refused: bool = False

    def answer(self, target: str, path: str, body: str) -> tuple[int, str]:
        if self.is_refused and not (path == "/" and not target and "Action=GetCallerIdentity" in body):
            return 400, json.dumps({"__type": "AccessDeniedException", "Message": "no"})
        if target.endswith("GetParameters"):
            found = [] if self.bootstrap is None else [{"Name": BOOTSTRAP, "Type": "String", "Value": str(self.bootstrap)}]
            return 200, json.dumps({"Parameters": found, "InvalidParameters": []})
        if path == "/2016-08-19/account-settings":
            unreserved = self.concurrency - sum(self.reserved.values())
            return 200, json.dumps({"AccountLimit": {"ConcurrentExecutions": self.concurrency,
                                                     "UnreservedConcurrentExecutions": unreserved}})
        if function := re.fullmatch(r"/2019-09-30/functions/(.+)/concurrency", path):
            told = self.reserved.get(function[1])
            return 200, json.dumps({} if told is None else {"ReservedConcurrentExecutions": told})
        if path == "/account":
            return 200, json.dumps({"cloudwatchRoleArn": self.log_role})
        if "Action=GetRole" in body and not self.has_log_role:
            return 404, "<ErrorResponse><Error><Code>NoSuchEntity</Code><Message>none</Message></Error></ErrorResponse>"
        if "Action=GetRole" in body:
            return 200, ("<GetRoleResponse><GetRoleResult><Role><Path>/</Path><RoleName>r</RoleName></Role></GetRoleResult>"
                         "</GetRoleResponse>")
        if "Action=DescribeStacks" in body:
            return 200, stacks_xml(self.functions)
        return 200, ('<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
                     "<Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>")


def stacks_xml(functions: tuple[str, ...]) -> str:
    outputs = "".join(f"<member><OutputKey>N{at}Function</OutputKey><OutputValue>{name}</OutputValue></member>"
                      for at, name in enumerate(functions))
    return ("<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>shutterless-dev-service</StackName>"
            "<StackStatus>UPDATE_COMPLETE</StackStatus><CreationTime>2026-11-01T00:00:00Z</CreationTime>"
            f"<Outputs>{outputs}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>")


@pytest.fixture
def account(monkeypatch, tmp_path) -> Iterator[Account]:
    told = Account()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, body = told.answer(self.headers.get("X-Amz-Target", ""), self.path, asked)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST  # noqa: N815  http.server's names

        def log_message(self, *_: object) -> None:
            pass

    for name in ("AWS_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-west-1",
                            "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
                            "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
                            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
            monkeypatch.setenv(name, value)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def mends(stage: Stage = DEV) -> dict[str, str]:
    """What is missing in the account -> what mends it."""
    return {check.what: check.mend for check in check_account(Deployed(stage.name), stage) if not check.is_well}


def stage(**changes) -> Stage:
    return Stage(name="dev", **changes)


def test_an_account_that_has_everything_is_told_so(account):
    assert mends() == {}


def test_without_credentials_the_rest_is_not_looked_up(account, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert mends() == {"credentials": "Set them up: aws configure, or AWS_PROFILE."}


def test_a_profile_that_is_not_there_is_no_fault_of_the_network(account, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "missing")
    assert mends() == {"credentials": "Set them up: aws configure, or AWS_PROFILE."}


def test_an_account_that_cannot_be_reached_is_a_matter_of_the_network(account, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert mends() == {"credentials": "Look at the network and the region, and run the same again."}


def test_a_region_that_nobody_set_is_asked_for(account, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert mends() == {"region": "aws configure set region us-east-1, or set AWS_REGION"}


def test_the_region_is_the_one_that_cdk_would_take(account, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert Deployed("dev").region == "eu-central-1"


@pytest.mark.parametrize("version", [None, 5])
def test_an_account_without_cdk_s_bootstrap_or_with_an_old_one_gets_the_command(account, version):
    account.bootstrap = version
    assert mends() == {"bootstrap": 'PATH="$PWD/.venv/bin:$PATH" infra/node_modules/.bin/cdk bootstrap -c stage=dev '
                                    "aws://123456789012/eu-west-1"}


def test_a_new_account_is_enough_for_dev_and_not_for_prod_s_queue(account):
    account.concurrency = 10
    assert mends(DEV) == {}
    (command,) = mends(STAGES["prod"]).values()
    assert command.startswith("aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 "
                              "--desired-value 1000 --region eu-west-1")


def test_what_is_reserved_needs_a_hundred_copies_beside_it(account):
    wanting = stage(functions={"predict": Function(memory_mb=1769, timeout_s=20, reserved=5)})
    account.concurrency = 105
    assert mends(wanting) == {}
    account.concurrency = 104
    assert mends(wanting).keys() == {"concurrency"}


def test_what_others_reserved_is_not_the_stage_s_and_what_it_reserved_itself_is(account):
    wanting = stage(functions={"predict": Function(memory_mb=1769, timeout_s=20, reserved=5)})
    account.concurrency, account.reserved = 305, {"somebody-s": 200}
    assert mends(wanting) == {}
    account.reserved = {"somebody-s": 201}
    assert mends(wanting).keys() == {"concurrency"}
    account.reserved, account.functions = {"somebody-s": 200, "shutterless-dev-predict": 5}, ("shutterless-dev-predict:live",)
    assert mends(wanting) == {}, "a second deploy needs no more than the first"
    account.reserved["somebody-s"] = 801
    account.concurrency = 900
    (command,) = mends(wanting).values()
    assert "--desired-value 1000 " in command
    account.reserved["somebody-s"] = 950
    account.concurrency = 1000
    (command,) = mends(wanting).values()
    assert "--desired-value 1055 " in command


@pytest.mark.parametrize(("role", "is_there", "says"), [
    (None, True, "API Gateway has no role for them yet: make deploy brings one"),
    ("arn:aws:iam::123456789012:role/other-app-CloudWatchRole-1A2B", True,
     "API Gateway writes them in arn:aws:iam::123456789012:role/other-app-CloudWatchRole-1A2B, which is not Shutterless's: make "
     "deploy keeps it"),
    ("arn:aws:iam::123456789012:role/other-app-CloudWatchRole-1A2B", False,
     "API Gateway has no role for them yet: make deploy brings one"),
    ("arn:aws:iam::123456789012:role/shutterless-account-ApiLogs7F-1A2B", True,
     "API Gateway writes them in Shutterless's own role")])
def test_it_is_told_in_whose_role_api_gateway_logs(account, role, is_there, says):
    account.log_role, account.has_log_role = role, is_there
    (check,) = [check for check in check_account(Deployed("dev"), DEV) if check.what == "API logs"]
    assert (check.says, check.is_well) == (says, True)


def test_a_function_larger_than_new_accounts_allow_is_named(account):
    large = stage(functions={"predict": Function(memory_mb=4096, timeout_s=20)})
    assert mends(large) == {}, "an account with the usual quotas has the usual memory"
    account.concurrency = 50
    assert mends(large)["memory"].startswith("lower memory_mb of predict to 3008 in infra/stages.py")


def test_rights_that_are_missing_are_named(account):
    account.is_refused = True
    assert mends() == {"bootstrap": "let these credentials call ssm:GetParameters, or use others",
                       "concurrency": "let these credentials call lambda:GetAccountSettings, lambda:GetFunctionConcurrency and "
                                      "cloudformation:DescribeStacks, or use others",
                       "API logs": "let these credentials call apigateway:GET on /account, or use others"}


@pytest.fixture
def pretend(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """`pretend("docker", script)`: what this command is here; no other can be found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))

    def pretend(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    return pretend


def test_a_machine_without_docker_or_with_one_that_sleeps_is_told_what_to_do(pretend):
    assert [check.mend for check in doctor.check_docker(DEV)] == ["Install it; on Debian: apt-get install docker.io."]
    pretend("docker", "exit 1")
    (check,) = doctor.check_docker(DEV)
    assert check.mend.startswith("Start it (Linux: systemctl start docker")


def test_a_processor_that_docker_cannot_build_for_gets_the_emulator_s_command(pretend, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(doctor, "EMULATORS", tmp_path)
    pretend("docker", "echo linux/amd64")
    assert all(check.is_well for check in doctor.check_docker(DEV))
    mend = [check.mend for check in doctor.check_docker(stage(architecture="arm64")) if not check.is_well]
    assert mend == ["docker run --privileged --rm tonistiigi/binfmt --install arm64; or set architecture of dev in "
                    "infra/stages.py"]
    (tmp_path / "qemu-aarch64").touch()
    assert all(check.is_well for check in doctor.check_docker(stage(architecture="arm64")))


@pytest.mark.parametrize(("node", "is_well"), [(None, False), ("echo v16.20.0", False), ("echo v24.1.0", True)])
def test_node_has_to_be_there_and_new_enough(pretend, node, is_well):
    if node:
        pretend("node", node)
    check = next(iter(doctor.check_versions()))
    assert (check.what, check.is_well, check.mend) == ("Node", is_well, "" if is_well else "make synth")


@pytest.mark.parametrize("found", [None, "2.1.0"])
def test_what_differs_from_its_lock_is_installed_anew(found):
    check = doctor._compared("CDK's command line", found, "2.1148.1")
    assert check.mend == "make synth"
    assert "the lock says 2.1148.1" in check.says
    assert doctor._compared("CDK's command line", "2.1148.1", "2.1148.1").is_well


def test_all_is_shown_and_the_exit_code_says_whether_anything_is_missing(account, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "check_versions", lambda: [])
    monkeypatch.setattr(doctor, "check_docker", lambda stage: [])
    assert main(["doctor"]) == 0
    assert "Nothing is missing: make deploy STAGE=dev" in capsys.readouterr().out
    account.bootstrap = None
    assert main(["doctor", "prod"]) == 1
    shown = capsys.readouterr().out
    assert "cdk bootstrap -c stage=prod aws://123456789012/eu-west-1" in shown
    assert "1000 copies of functions at once, prod needs 20" in shown


def test_an_unknown_stage_is_answered_by_the_list(capsys):
    assert main(["doctor", "nowhere"]) == 1
    assert "one of dev, staging, prod, rehearsal" in capsys.readouterr().err
