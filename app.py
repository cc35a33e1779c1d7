"""CDK's entry: `cdk deploy --all -c stage=dev`. The environment is read here, and nowhere below."""

import os

import aws_cdk as cdk

from infra.stacks import build

app = cdk.App()
build(app, app.node.try_get_context("stage"), account=os.environ.get("CDK_DEFAULT_ACCOUNT"),
      region=os.environ.get("CDK_DEFAULT_REGION"), model=app.node.try_get_context("model"),
      base_image=os.environ.get("BASE_IMAGE"))
app.synth()
