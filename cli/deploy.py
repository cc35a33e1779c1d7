"""Put a stage into your AWS account, or bring it up to date, and try it there.

Images and bundles are published when they changed, and only then. The account must have been bootstrapped, once: shutterless
doctor says how, and what else is missing.

examples:
  shutterless deploy dev
  shutterless deploy dev --model my-model --signing-key public.pem
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from cli.cdk import add_source_options, run_cdk
from shutterless.errors import BadSettings

if TYPE_CHECKING:
    from infra.deployed import Deployed
    from infra.page import Page
    from infra.stages import Stage

NAMES = {"instance": "an RDS instance", "aurora": "an Aurora cluster"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is deployed, and where to."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    add_source_options(parser)
    parser.add_argument("--without-page", action="store_true",
                        help="deploy the API alone, where the page is not built; a page that is there already stays")


def run(arguments: argparse.Namespace) -> int:
    """Check what is needed, deploy, publish the page, try it, and say how it is used."""
    from cli.images import docker_platform
    from infra.deployed import Deployed
    from infra.page import page_of_project
    from infra.smoke import try_it
    from infra.stages import stage_named

    stage, page = stage_named(arguments.stage), page_of_project()
    if not (page.is_built or arguments.without_page):
        raise BadSettings("Expected the built page in ui/dist, got none: what synth takes instead is a placeholder. Build the "
                          f"page, or deploy the API alone: make deploy STAGE={stage.name} ARGS=--without-page.")
    docker_platform()
    deployed = Deployed(stage.name)
    say(f"Deploying {stage.name} into account {deployed.account()}, {deployed.region}.")
    there = deployed.told()
    refuse_another_database(stage, there)
    if there.get("SigningKey", "none") != "none" and not arguments.signing_key:
        say(f"{stage.name} took bundles alone that are signed ({there['SigningKey']}). This deploy names no SIGNING_KEY: from "
            "now on it takes any.")
    if log_role := deployed.log_role_of_others():
        say(f"API Gateway logs in {log_role} in this account and region. That is not Shutterless's, and stays.")
    run_cdk("deploy", "--all", "--require-approval", "never", stage=stage.name, model=arguments.model,
            signing_key=arguments.signing_key, log_role=log_role)
    outputs = deployed.outputs()
    publish(deployed, page, outputs, is_wanted=not arguments.without_page)
    try_it(outputs["Url"], deployed.api_key(outputs["KeyId"]), say=say, sign=deployed.sign if stage.iam_auth else None)
    tell(deployed, outputs, is_signed=stage.iam_auth)
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr)


def refuse_another_database(stage: Stage, outputs: dict[str, str]) -> None:
    """An instance does not become Aurora, nor back: CloudFormation would begin with an empty one."""
    there, wanted = outputs.get("DatabaseKind"), stage.database.kind
    if there not in (None, wanted):
        raise BadSettings(f"{stage.name} keeps its results in {NAMES[there]}, and infra/stages.py now says {NAMES[wanted]}. One "
                          "does not become the other, and the results would be gone. Set it back; or let a stage of another name "
                          f"begin with {NAMES[wanted]}; or, if nothing of it is wanted, destroy this one first: make destroy "
                          f"STAGE={stage.name}.")


def publish(deployed: Deployed, page: Page, outputs: dict[str, str], *, is_wanted: bool) -> None:
    """The page; the placeholder, or one that was not wanted, only where no page is there yet."""
    if (page.is_built and is_wanted) or not deployed.has_page(outputs["PageBucket"]):
        deployed.publish_page(page.folder, outputs["PageBucket"], outputs["DistributionId"], api_url=outputs["Url"])


def tell(deployed: Deployed, outputs: dict[str, str], *, is_signed: bool) -> None:
    """Addresses, the key's command, and a line to try."""
    url = outputs["Url"].rstrip("/")
    key = f"aws apigateway get-api-key --region {deployed.region} --include-value --query value --output text " \
          f"--api-key {outputs['KeyId']}"
    signature = (f'--aws-sigv4 aws:amz:{deployed.region}:execute-api --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
                 '-H "X-Amz-Security-Token: $AWS_SESSION_TOKEN" ' if is_signed else "")
    print(f"API        {url}")
    print(f"Key        {key}")
    print(f"Dashboard  {outputs['DashboardUrl']}")
    print(f"Page       {outputs['PageUrl']}")
    if is_signed:
        print("\nThe line below signs with the keys in the environment. Version 2 of aws brings those of a profile there:\n"
              'eval "$(aws configure export-credentials --format env)"')
    print(f'\ncurl {signature}-H "X-Api-Key: $({key})" -H "Content-Type: image/jpeg" --data-binary @tile.jpg {url}/predict')
