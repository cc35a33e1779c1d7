"""CDK's entry: `cdk deploy --all -c stage=dev`. The environment is read here, and nowhere below."""

import os
import sys

import aws_cdk as cdk

from infra.stacks import build
from shutterless.errors import ShutterlessError

app = cdk.App()
try:
    build(app, app.node.try_get_context("stage"), account=os.environ.get("CDK_DEFAULT_ACCOUNT"),
          region=os.environ.get("CDK_DEFAULT_REGION"), model=app.node.try_get_context("model"),
          base_image=os.environ.get("BASE_IMAGE"))
except ShutterlessError as error:
    sys.exit(f"shutterless: {error}")
app.synth()
