"""AWS's rules for a sound solution (cdk-nag, AwsSolutions): every stage is held to them at synth. Each exception stands
beside the construct that needs it, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks
from constructs import IConstruct

from infra import account, api, data, database, network, registry, service, site

if TYPE_CHECKING:
    from infra.stacks import Stacks

PACK = "AwsSolutions"
EXCEPTIONS = (*registry.EXEMPT, *site.EXEMPT, *data.EXEMPT, *network.EXEMPT, *database.EXEMPT, *account.EXEMPT, *service.EXEMPT,
              *api.EXEMPT)


def hold_to_rules(app: cdk.App, stacks: Stacks) -> None:
    """Synth of `app` fails where a rule is broken and no exception stands above."""
    for place, name, reason in exempted(app, stacks):
        cdk.Validations.of(place).acknowledge(cdk.Acknowledgment(id=name, reason=reason))
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app, verbose=True))


def exempted(app: cdk.App, stacks: Stacks) -> Iterator[tuple[IConstruct, str, str]]:
    """Construct, rule and reason. What a stage does not have is left out."""
    names = {"uploads": _exported(stacks.data, stacks.data.uploads.bucket_arn),
             "models": _exported(stacks.data, stacks.data.models.bucket_arn)}
    for each in EXCEPTIONS:
        finding = f"[{each.finding.format(**names)}]" if each.finding else ""
        name = each.rule if "::" in each.rule else f"{PACK}::{PACK}-{each.rule}{finding}"
        yield from ((place, name, each.reason) for path in each.where if (place := _find(app, path)))


def _find(app: cdk.App, path: str) -> IConstruct | None:
    place: IConstruct | None = app
    for name in path.split("/"):
        place = place and place.node.try_find_child(name)
    return place


def _exported(stack: cdk.Stack, arn: str) -> str:
    """What another stack's policy calls this bucket: by the name under which its own stack exports the address."""
    return str(stack.resolve(stack.export_value(arn))["Fn::ImportValue"])
