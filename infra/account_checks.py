"""What a deploy needs of the account, looked up without changing anything: credentials, region, bootstrap, Lambda's quotas,
and in whose role API Gateway logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from infra.deployed import Deployed, explained, is_own_role
from infra.stages import UNRESERVED, Stage
from shutterless.errors import BadSettings

BOOTSTRAP = "/cdk-bootstrap/hnb659fds/version"  # where CDK's bootstrap stack leaves its version
BOOTSTRAP_VERSION = 6  # the least that CDK's synthesizer takes
CDK = 'PATH="$PWD/.venv/bin:$PATH" infra/node_modules/.bin/cdk'  # it asks app.py even for bootstrap; Node may be in .venv
NEW_ACCOUNT_MB = 3008  # of memory for a function, until AWS knows an account; no API tells the quota
USUAL_CONCURRENCY = 1000  # of an account that AWS knows
QUOTA = "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384"


@dataclass(frozen=True, kw_only=True)
class Check:
    """what: its name. says: how it is. mend: the command, or what to do, where something is missing."""

    what: str
    says: str
    mend: str = ""

    @property
    def is_well(self) -> bool:
        return not self.mend


def check_account(deployed: Deployed, stage: Stage) -> Iterator[Check]:
    """One for each. Without credentials, the others cannot be looked up."""
    try:
        account = deployed.account()
    except BadSettings as error:
        says, _, mend = str(error).partition(". ")
        yield Check(what="credentials", says=says, mend=mend)
        return
    yield Check(what="credentials", says=f"account {account}")
    yield _region(deployed)
    yield _bootstrap(deployed, stage, account)
    try:
        with explained():
            told = deployed.client("lambda").get_account_settings()["AccountLimit"]
            limit, unreserved = int(told["ConcurrentExecutions"]), int(told["UnreservedConcurrentExecutions"])
            others = limit - unreserved - _own(deployed) if unreserved < limit else 0
    except BadSettings as error:
        yield Check(what="concurrency", says=str(error).partition(". ")[0],
                    mend="let these credentials call lambda:GetAccountSettings, lambda:GetFunctionConcurrency and "
                         "cloudformation:DescribeStacks, or use others")
    else:
        yield _concurrency(deployed, stage, limit, others)
        yield _memory(stage, limit)
    yield _log_role(deployed)


def _own(deployed: Deployed) -> int:
    """Copies that the stage has reserved already, as it stands there."""
    functions = [value.partition(":")[0] for name, value in deployed.told().items() if name.endswith("Function")]
    asked = (deployed.client("lambda").get_function_concurrency(FunctionName=function) for function in functions)
    return sum(each.get("ReservedConcurrentExecutions", 0) for each in asked)


def _region(deployed: Deployed) -> Check:
    if deployed.chosen_region:
        return Check(what="region", says=deployed.region)
    return Check(what="region", says=f"none is set, so that {deployed.region} would be taken",
                 mend=f"aws configure set region {deployed.region}, or set AWS_REGION")


def _bootstrap(deployed: Deployed, stage: Stage, account: str) -> Check:
    mend = f"{CDK} bootstrap -c stage={stage.name} aws://{account}/{deployed.region}"
    ssm = deployed.client("ssm")
    try:
        with explained():
            found = ssm.get_parameters(Names=[BOOTSTRAP])["Parameters"]
    except BadSettings as error:
        return Check(what="bootstrap", says=str(error).partition(". ")[0],
                     mend="let these credentials call ssm:GetParameters, or use others")
    if not found:
        return Check(what="bootstrap", says=f"CDK was never bootstrapped in {deployed.region}", mend=mend)
    version = int(found[0]["Value"])
    return Check(what="bootstrap", says=f"version {version}", mend=mend if version < BOOTSTRAP_VERSION else "")


def _concurrency(deployed: Deployed, stage: Stage, limit: int, others: int) -> Check:
    """Of the account's functions together, without what `others` have reserved. With less, the stage would not deploy, or be
    throttled for ever."""
    held = sum(max(one.reserved or 0, one.provisioned) for one in stage.functions.values())
    needed = max(stage.queue_concurrency, held + UNRESERVED if held else 0, stage.account_concurrency or 0)
    reserved = f", {others} of them reserved by others" if others else ""
    says = f"{limit} copies of functions at once{reserved}, {stage.name} needs {needed}"
    wanted = max(needed + others, USUAL_CONCURRENCY)
    return Check(what="concurrency", says=says, mend=f"{QUOTA} --desired-value {wanted} --region {deployed.region}; or lower in "
                 "infra/stages.py what is reserved or kept warm, and queue_concurrency" if limit - others < needed else "")


def _memory(stage: Stage, limit: int) -> Check:
    """New accounts have little of both, so that the one that can be asked for tells of the other."""
    name, most_mb = max(((name, one.memory_mb) for name, one in stage.functions.items()), key=lambda each: each[1])
    says = f"{most_mb} MB at most, of {name}"
    if most_mb <= NEW_ACCOUNT_MB or limit >= USUAL_CONCURRENCY:
        return Check(what="memory", says=says)
    return Check(what="memory", says=f"{says}; an account as new as this one has {NEW_ACCOUNT_MB}",
                 mend=f"lower memory_mb of {name} to {NEW_ACCOUNT_MB} in infra/stages.py, or ask AWS Support for more: "
                      "aws support create-case")


def _log_role(deployed: Deployed) -> Check:
    """The account has one in each region, for all APIs."""
    try:
        role = deployed.log_role()
    except BadSettings as error:
        return Check(what="API logs", says=str(error).partition(". ")[0],
                     mend="let these credentials call apigateway:GET on /account, or use others")
    if role is None:
        says = "API Gateway has no role for them yet: make deploy brings one"
    elif is_own_role(role):
        says = "API Gateway writes them in Shutterless's own role"
    else:
        says = f"API Gateway writes them in {role}, which is not Shutterless's: make deploy keeps it"
    return Check(what="API logs", says=says)
