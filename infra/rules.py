"""AWS's rules for a sound solution (cdk-nag, AwsSolutions): every stage is held to them at synth. Here stands each exception,
with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks
from constructs import IConstruct

if TYPE_CHECKING:
    from infra.stacks import Stacks

PACK = "AwsSolutions"


class Exempt(NamedTuple):
    """rule: its name, without the pack's if that is AwsSolutions. where: the construct, and all below it. finding: of rules that
    find several things."""

    rule: str
    where: tuple[str, ...]
    reason: str
    finding: str = ""


SERVED = ("Service/Migrate/Role", "Service/Upload/Role", "Service/Query/Role", "Service/Infer/Role")
EXCEPTIONS = (
    Exempt("S1", ("Registry/Artifacts", "Site/Page", "Data/Uploads", "Data/Models"),
           "S3's access logs would cost more than the pictures they tell of. Who uploads and reads stands in the API's access "
           "log; S3 itself is asked by the functions alone, and by forms and links that they sign."),
    Exempt("CFR1", ("Site/Distribution",), "The page may be seen from every country. What it asks needs a key."),
    Exempt("CFR2", ("Site/Distribution",),
           "CloudFront serves a few static files from its cache; nothing is behind it to attack. The switch waf guards the API."),
    Exempt("CFR3", ("Site/Distribution",), "Who looks at a static page is not recorded, as nobody needs to know."),
    Exempt("CFR4", ("Site/Distribution",),
           "With CloudFront's own domain name, AWS fixes the oldest protocol at TLS 1.0. A domain of one's own, with its "
           "certificate, would bring TLS 1.2 into force."),
    Exempt("VPC7", ("Data/Network/Vpc",),
           "Flow logs of a network without a way out could only tell of functions that ask PostgreSQL and S3, and would cost "
           "more than all else that is logged."),
    Exempt("RDS3", ("Data/Database",), "A second zone doubles the price: prod has it, the small stages have not."),
    Exempt("RDS10", ("Data/Database",), "Only prod is protected: make destroy has to take the small stages away."),
    Exempt("RDS11", ("Data/Database",),
           "The port is the usual one: nobody but the functions reaches the subnets, and another number would hide nothing."),
    Exempt("RDS13", ("Data/Database",), "The rehearsal's database lives for minutes, on one machine. All others have backups."),
    Exempt("CloudFormation-Validate::W2501", ("Data/Database",),
           "The emulator knows no login by IAM, so the rehearsal has a password, which opens nothing but its own container. "
           "infra/stages.py refuses one to every other stage."),
    Exempt("IAM4", ("Account/ApiLogs",),
           "The policy that AWS prescribes for this role, and the only one that API Gateway accepts in every region.",
           "Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"),
    Exempt("IAM4", tuple(f"Service/{name}Canary" for name in ("Upload", "Query", "Predict", "Infer")),
           "AWS's own policy for CodeDeploy before functions: it moves an alias, reads alarms, invokes hooks, and nothing more.",
           "Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSCodeDeployRoleForLambdaLimited"),
    Exempt("IAM5", SERVED,
           "Lambda makes the network interfaces of functions in a VPC; these actions of EC2 know no smaller resource.",
           "Resource::*"),
    Exempt("IAM5", SERVED[1:], "Pictures have keys that nobody knows beforehand: all below uploads/, and nothing beside.",
           "Resource::{uploads}/uploads/*"),
    Exempt("IAM5", ("Service/Infer/Role", "Service/Predict/Role"), "The files of all bundles, and nothing beside models/.",
           "Resource::{models}/models/*"),
    Exempt("APIG2", ("Api/Api",),
           "API Gateway can validate JSON, and bodies here are pictures and forms. The functions validate all of it, and answer "
           "with a sentence that says what is wrong."),
    Exempt("APIG3", ("Api/Api",), "A firewall costs 9 dollars a month before the first request: the switch waf turns it on."),
    Exempt("APIG4", ("Api/Api/Default",),
           "Keys with a usage plan let clients in; the switch iam_auth asks for signed requests as well. /health is open, as it "
           "tells nothing but that it is there."),
    Exempt("COG4", ("Api/Api/Default",), "Clients are programs with a key, not people with a password."),
)


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
