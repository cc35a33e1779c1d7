"""What must not change unseen: the logical ids of what holds data, and the rights of every role (rights.txt)."""

import re
import stat
from pathlib import Path

import pytest

from cli.images import build_all
from infra.sources import AWS_BASE, DATABASE_CA, ROOT, bundle_of_project
from infra.stages import STAGES
from tests.infra.synthesized import EVERY, SYNTH_S, synthesized

pytestmark = pytest.mark.timeout(SYNTH_S)

RIGHTS = Path(__file__).parent / "rights.txt"
STATEFUL = {  # another id makes CloudFormation delete what was there
    "Registry": {"Artifacts82DD59A1": "AWS::S3::Bucket", "ApiF70053CD": "AWS::ECR::Repository",
                 "InferenceB3CD4D8F": "AWS::ECR::Repository"},
    "Site": {"PageA98A310E": "AWS::S3::Bucket"},
    "Data": {"Uploads4F6EB0FD": "AWS::S3::Bucket", "ModelsC55D3500": "AWS::S3::Bucket",
             "ClassifyQueue34E1CC15": "AWS::SQS::Queue", "ClassifyDeadLettersA76ADCAA": "AWS::SQS::Queue",
             "DatabaseInstance02E622FB": "AWS::RDS::DBInstance"},
}
KINDS = {kind for stack in STATEFUL.values() for kind in stack.values()}


@pytest.mark.parametrize("stage", STAGES)
def test_what_holds_data_keeps_its_logical_id(stage):
    templates = synthesized(stage).templates
    found = {stack: {name: each["Type"] for name, each in templates[stack]["Resources"].items() if each["Type"] in KINDS}
             for stack in STATEFUL}
    assert found == STATEFUL


def test_a_cluster_keeps_its_logical_id_too():
    resources = synthesized("snapped").templates["Data"]["Resources"]
    assert [name for name, each in resources.items() if each["Type"] == "AWS::RDS::DBCluster"] == ["DatabaseClusterC6094C50"]


def test_destroy_is_told_of_what_prod_keeps():
    assert {"UploadsBucket", "DatabaseIdentifier"} <= synthesized("prod").templates["Data"]["Outputs"].keys()


def rights(stage: str) -> list[str]:
    """Of all roles in all stacks, one line for each right: role, action, resource."""
    lines = []
    for name, each in ((name, each) for template in synthesized(stage).templates.values()
                       for name, each in template["Resources"].items()):
        if each["Type"] == "AWS::IAM::Policy":
            role = role_of(each["Properties"]["Roles"][0]["Ref"])
            for statement in each["Properties"]["PolicyDocument"]["Statement"]:
                lines += [f"{statement['Effect'].lower()} {role:14} {action:36} {text(resource)}"
                          for action in listed(statement["Action"]) for resource in listed(statement["Resource"])]
        if each["Type"] == "AWS::IAM::Role":
            assert "Policies" not in each["Properties"], "statements stand in policies of their own"
            lines += [f"allow {role_of(name):14} {'all of the managed policy':36} {text(policy)}"
                      for policy in each["Properties"].get("ManagedPolicyArns", [])]
    return sorted(lines)


def role_of(logical_id: str) -> str:
    return plain(logical_id).replace("Role", "").removesuffix("Service").lower()


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def text(resource) -> str:
    if isinstance(resource, str):
        return resource
    (kind, value), = resource.items()
    match kind:
        case "Fn::Join":
            return "".join(text(part) for part in value[1])
        case "Fn::GetAtt":
            return f"{{{plain(value[0])}.{value[1]}}}"
        case "Fn::Select":
            return f"{{part {value[0]} of {text(value[1]['Fn::Split'][1])}}}"
        case "Fn::ImportValue":
            return f"{{{plain(value.partition(':Exports')[2].removeprefix('OutputFnGetAtt'))}}}"
        case _:
            return f"{{{value}}}"


def plain(name: str) -> str:
    return re.sub(r"[0-9A-F]{8}", "", name)


def written(section: str) -> list[str]:
    """The lines of rights.txt below the heading `# section: ...`."""
    text = RIGHTS.read_text(encoding="utf-8").split(f"# {section}: ")[1]
    return [line for line in text.partition("\n# ")[0].splitlines()[1:] if line]


def test_every_role_has_the_rights_that_are_written_down_and_no_other():
    assert rights("dev") == written("dev"), "look at each line that changed, and write it down in rights.txt"


@pytest.mark.parametrize("stage", ["guarded", "snapped"])
def test_switches_bring_the_rights_that_are_written_down_and_no_other(stage):
    assert sorted(set(rights(stage)) - set(rights("dev"))) == written(stage)


def test_a_model_in_the_bucket_is_the_only_reason_for_more_rights():
    more = set(rights("rehearsal")) - set(rights("dev"))
    assert {tuple(line.split()[1:3]) for line in more} == {("infer", "s3:GetObject"), ("predict", "s3:GetObject")}


@pytest.mark.parametrize("stage", EVERY)
def test_no_right_is_on_everything_but_those_by_which_lambda_enters_the_network(stage):
    everywhere = {tuple(line.split()[1:3]) for line in rights(stage) if line.endswith(" *")}
    assert {role for role, _ in everywhere} == {"upload", "query", "infer", "migrate"}
    assert {action for _, action in everywhere} == {
        "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses"}
    assert not [line for line in rights(stage) if line.split()[2].endswith("*")], "no action is a whole group of them"


@pytest.mark.parametrize("stage", ["dev", "rehearsal"])
def test_images_are_published_by_the_hash_that_make_images_gives_them(stage, tmp_path, monkeypatch):
    (tmp_path / "docker").write_text("#!/bin/sh\n")  # says yes to whether each image is there
    (tmp_path / "docker").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    ca = ROOT / DATABASE_CA if STAGES[stage].iam_database else None
    made = build_all(base_image=AWS_BASE, db_ca=ca, platform="linux/amd64")
    told = synthesized(stage).assets["dockerImages"].values()
    assert len(told) == 2
    for image in told:
        name = image["source"]["dockerFile"].removeprefix("docker/").removesuffix(".Dockerfile")
        (place,) = image["destinations"].values()
        assert place["repositoryName"] == f"shutterless-{stage}/{name}"
        assert f"shutterless-{name}:{place['imageTag']}" == made[name]
        assert image["source"]["platform"] == "linux/amd64"


def test_every_file_of_the_bundle_is_published_under_its_own_name():
    _, bundle = bundle_of_project("eurosat-lite0")
    keys = [place["objectKey"] for each in synthesized("dev").assets["files"].values() for place in each["destinations"].values()
            if place["bucketName"].startswith("shutterless-dev-models-")]
    prefix = f"models/{bundle.sha256[:16]}/eurosat-lite0/1/"
    assert sorted(keys) == sorted(prefix + path for path in [*bundle.manifest.files, "manifest.json"])
