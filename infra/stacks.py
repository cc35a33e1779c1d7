"""A stage -> its stacks, in the order in which they stand on each other: Registry, Site, Data, Service, Api, Watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aws_cdk as cdk

from infra.account import AccountStack
from infra.api import ApiStack
from infra.data import DataStack
from infra.images import Sources
from infra.monitoring import WatchStack
from infra.page import add_page, page_of_project
from infra.registry import Registry, synthesizer_of
from infra.service import ServiceStack
from infra.site import SiteStack
from infra.sources import AWS_BASE, ROOT, bundle_of_project, pem_of_project
from infra.stages import Stage, stage_named
from shutterless.signatures import check_signature

NO_ACCOUNT, REGION = "0" * 12, "us-east-1"  # of a synth without credentials
DEFAULT_MODEL = "eurosat-lite0"


@dataclass(frozen=True)
class Stacks:
    """Those of one stage, and the one that all stages of the account share."""

    registry: Registry
    site: SiteStack
    data: DataStack
    service: ServiceStack
    account: AccountStack
    api: ApiStack
    watch: WatchStack


def build(app: cdk.App, stage: str | Stage | None, *, account: str | None = None, region: str | None = None,
          model: str | None = None, base_image: str | None = None, signing_key: str | None = None,
          log_role: str | None = None) -> Stacks:
    """All stacks of a stage, in `app`. Raises BadStage, and what a bundle raises that is broken or not signed with the key.

    account, region: where it will be deployed. model: the bundle in models/. base_image: what the functions' images stand on.
    signing_key: a .pem file of the project, with the public key that the functions take bundles of. log_role: of API Gateway in
    this account and region, where others made one.
    """
    stage = stage if isinstance(stage, Stage) else stage_named(stage)
    account, region = account or NO_ACCOUNT, region or REGION
    app.node.set_context("@aws-cdk/core:defaultCrossStackReferences", "strong")  # a stack keeps what others still use
    cdk.Tags.of(app).add("shutterless:stage", stage.name, exclude_resource_types=["AWS::RDS::DBProxyTargetGroup"])
    name, bundle = bundle_of_project(model or DEFAULT_MODEL)
    key = ROOT / signing_key if signing_key else None
    sources = Sources(bundle=name, base_image=base_image or AWS_BASE, signing_key=pem_of_project("signing_key", key))
    if key:
        check_signature(bundle, key)

    def named(name: str) -> dict[str, Any]:
        return {"stack_name": f"shutterless-{stage.name}-{name.lower()}", "env": cdk.Environment(account=account, region=region),
                "termination_protection": stage.keeps_data, "description": f"Shutterless {stage.name}: {name.lower()}"}

    registry = Registry(app, "Registry", stage=stage, account=account, region=region, **named("Registry"))
    synthesizer = synthesizer_of(registry)
    site = SiteStack(app, "Site", stage=stage, synthesizer=synthesizer, **named("Site"))
    data = DataStack(app, "Data", stage=stage, site=site, models_name=registry.models_name, synthesizer=synthesizer,
                     **named("Data"))
    registry.data_stack = data
    service = ServiceStack(app, "Service", stage=stage, data=data, sources=sources, outdir=app.outdir, synthesizer=synthesizer,
                           **named("Service"))
    shared = AccountStack(app, "Account", stack_name="shutterless-account", description="Shutterless: what all stages share",
                          env=cdk.Environment(account=account, region=region), log_role=log_role)
    cdk.Tags.of(shared).remove("shutterless:stage")
    api = ApiStack(app, "Api", stage=stage, service=service, site=site, synthesizer=synthesizer, **named("Api"))
    api.add_stack_dependency(shared)
    watch = WatchStack(app, "Watch", stage=stage, data=data, service=service, api=api, synthesizer=synthesizer, **named("Watch"))
    add_page(page_of_project(), app.outdir)
    return Stacks(registry, site, data, service, shared, api, watch)
