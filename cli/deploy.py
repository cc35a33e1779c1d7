"""Put a stage into your AWS account, or bring it up to date, and try it there.

Images and bundles are published when they changed, and only then. The account must have been bootstrapped, once: cdk bootstrap.

examples:
  shutterless deploy dev
  shutterless deploy dev --model my-model
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from shutterless.errors import BadSettings

if TYPE_CHECKING:
    from infra.deployed import Deployed

PAGE = "ui/dist"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is deployed, and where to."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("--model", metavar="MODEL", help="the bundle in models/: NAME (its newest version) or NAME/VERSION")
    parser.add_argument("--without-page", action="store_true", help="deploy the API alone, where the page is not built")


def run(arguments: argparse.Namespace) -> int:
    """Check what is needed, deploy, publish the page, try it, and say how it is used."""
    from cli.cdk import run_cdk
    from cli.images import docker_platform
    from infra.deployed import Deployed
    from infra.smoke import try_it
    from infra.sources import ROOT
    from infra.stages import stage_named

    stage = stage_named(arguments.stage)
    page = ROOT / PAGE
    if not arguments.without_page and not (page / "index.html").is_file():
        raise BadSettings(f"Expected the built page in {PAGE}, got none. Build it, or deploy the API alone: "
                          f"make deploy STAGE={stage.name} ARGS=--without-page.")
    docker_platform()
    deployed = Deployed(stage.name)
    print(f"Deploying {stage.name} into account {deployed.account()}, {deployed.region}.", file=sys.stderr)
    run_cdk("deploy", "--all", "--require-approval", "never", stage=stage.name, model=arguments.model)
    outputs = deployed.outputs()
    if not arguments.without_page:
        deployed.publish_page(page, outputs["PageBucket"], outputs["DistributionId"], api_url=outputs["Url"])
    try_it(outputs["Url"], deployed.api_key(outputs["KeyId"]), say=lambda line: print(line, file=sys.stderr))
    tell(deployed, outputs)
    return 0


def tell(deployed: Deployed, outputs: dict[str, str]) -> None:
    """Addresses, the key's command, and a line to try."""
    url = outputs["Url"].rstrip("/")
    key = f"aws apigateway get-api-key --region {deployed.region} --include-value --query value --output text " \
          f"--api-key {outputs['KeyId']}"
    print(f"API        {url}")
    print(f"Key        {key}")
    print(f"Dashboard  {outputs.get('DashboardUrl', 'none')}")
    print(f"Page       {outputs['PageUrl']}")
    print(f'\ncurl -H "X-Api-Key: $({key})" -F file=@tile.jpg {url}/predict')
