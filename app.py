"""CDK's entry: `cdk deploy --all -c stage=dev`. The environment is read here, and nowhere below."""

import os
import sys

import aws_cdk as cdk

from infra.rules import hold_to_rules
from infra.stacks import build
from shutterless.errors import ShutterlessError

app = cdk.App()
try:
    stacks = build(app, app.node.try_get_context("stage"), account=os.environ.get("CDK_DEFAULT_ACCOUNT"),
                   region=os.environ.get("CDK_DEFAULT_REGION"), model=app.node.try_get_context("model"),
                   base_image=os.environ.get("BASE_IMAGE"), signing_key=app.node.try_get_context("signing_key"),
                   log_role=app.node.try_get_context("log_role"))
except ShutterlessError as error:
    sys.exit(f"shutterless: {error}")
if app.node.try_get_context("rules") != "off":  # for a deploy of what was checked before
    hold_to_rules(app, stacks)
app.synth()
