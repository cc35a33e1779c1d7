"""A deploy with a signing key: the functions are built with it, by the hash that make images gives, and take a signed bundle."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import aws_cdk as cdk
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from infra import images, sources, stacks
from infra.sources import arguments_of, recipe_of, source_hash
from infra.stages import Stage
from model_export.sign import sign
from shutterless.bundles import read_bundle
from shutterless.errors import BadBundle
from tests.infra.synthesized import SYNTH_S

pytestmark = pytest.mark.timeout(SYNTH_S)
ROOT = Path(__file__).parents[2]
STAGE = Stage(name="dev", model_from="bucket")


@pytest.fixture
def project(tmp_path, make_bundle, monkeypatch) -> Path:
    """A copy of what images are made of, with the bundles signed/1 and unsigned/1 and the key public.pem."""
    folder = tmp_path / "project"
    for name in ("docker", "lambdas", "requirements", "shutterless"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "private.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    sign(read_bundle(make_bundle(folder / "models", name="signed")), tmp_path / "private.pem", lambda: "")
    make_bundle(folder / "models", name="unsigned")
    for module in (sources, images, stacks):
        monkeypatch.setattr(module, "ROOT", folder)
    return folder


def test_the_key_goes_into_the_image_that_opens_bundles_and_the_signature_beside_the_bundle(project, tmp_path):
    app = cdk.App(analytics_reporting=False, outdir=str(tmp_path / "out"))
    stacks.build(app, STAGE, model="signed", signing_key="public.pem")
    app.synth()
    assets = json.loads((tmp_path / "out/Service.assets.json").read_text())
    built = {each["source"]["dockerFile"]: each for each in assets["dockerImages"].values()}
    arguments = built["docker/inference.Dockerfile"]["source"]["dockerBuildArgs"]
    (tag,) = [place["imageTag"] for place in built["docker/inference.Dockerfile"]["destinations"].values()]
    assert (arguments["SIGNING_KEY"], arguments["MODEL"]) == ("public.pem", "signed/1")
    assert tag == source_hash(recipe_of("inference"), arguments_of(recipe_of("inference"), arguments))
    assert "SIGNING_KEY" not in built["docker/api.Dockerfile"]["source"]["dockerBuildArgs"]
    keys = [place["objectKey"] for each in assets["files"].values() for place in each["destinations"].values()]
    assert sorted(key.rpartition("/")[2] for key in keys if key.startswith("models/")) == [
        "manifest.json", "model.onnx", "model.sig"]
    output = json.loads((tmp_path / "out/Service.template.json").read_text())["Outputs"]["SigningKey"]
    (command,) = re.findall(": (openssl .*)", output["Description"])
    shown = subprocess.run(["sh", "-c", command], cwd=project, capture_output=True, text=True, check=True).stdout
    assert output["Value"] == f"sha256:{shown.split()[-1]}", "what the description says shows whose key it is"


def test_another_key_makes_another_image(project):
    recipe = recipe_of("inference")
    before = source_hash(recipe, {"SIGNING_KEY": "public.pem"})
    (project / "public.pem").write_text("another")
    assert source_hash(recipe, {"SIGNING_KEY": "public.pem"}) != before


def test_a_bundle_that_the_key_did_not_sign_is_refused_before_anything_is_built(project, tmp_path):
    with pytest.raises(BadBundle, match="The bundle is not signed"):
        stacks.build(cdk.App(outdir=str(tmp_path / "out")), STAGE, model="unsigned", signing_key="public.pem")
