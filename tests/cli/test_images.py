import re
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.images import LOCAL_BASE, ROOT, bundle_in_models, docker_platform, fetch_base
from cli.main import main
from shutterless.errors import BadSettings, NotFound


@pytest.fixture
def pretend_docker(tmp_path, monkeypatch):
    """`pretend_docker(script)`: what `docker` is on this machine; nothing else can be found."""
    def pretend_docker(script: str | None) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        if script is not None:
            (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "docker").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(folder))
    return pretend_docker


@pytest.mark.parametrize("command", [["images"], ["images", "base"], ["invoke", str(ROOT / "events/predict.json")]])
@pytest.mark.parametrize(("script", "sentence"), [(None, "Docker, which is not installed"), ("exit 1", "Docker does not answer")])
def test_a_machine_without_docker_is_told_what_is_missing(command, script, sentence, pretend_docker, capsys):
    pretend_docker(script)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_base_image_that_cannot_be_pulled_leads_to_the_local_one(pretend_docker, capfd):
    pretend_docker('[ "$1" = version ] && echo linux/amd64')
    assert main(["images"]) == 1
    said = capfd.readouterr().err
    assert "public.ecr.aws/lambda/python:3.13 is not here and cannot be pulled" in said
    assert "make base, then make images BASE_IMAGE=shutterless-base:local" in said


def test_where_aws_s_base_cannot_be_pulled_the_local_one_is_taken_if_it_is_here_and_was_not_asked_against(pretend_docker, capfd):
    pretend_docker('case "$1 $3" in "image shutterless-base:"*) ;; *) exit 1;; esac')
    assert fetch_base() == fetch_base(LOCAL_BASE)
    assert fetch_base().startswith("shutterless-base:")
    assert "cannot be pulled: building on shutterless-base:local" in capfd.readouterr().err
    with pytest.raises(BadSettings, match="cannot be pulled"):
        fetch_base("example/base:1")


def test_the_local_base_needs_mmdebstrap(pretend_docker, capsys):
    pretend_docker('[ "$1" = version ] && echo linux/amd64')
    assert main(["images", "base"]) == 1
    assert "apt-get install mmdebstrap" in capsys.readouterr().err


def test_the_platform_is_what_the_daemon_runs_on(pretend_docker):
    pretend_docker("echo linux/arm64")
    assert docker_platform() == "linux/arm64"


def test_an_image_without_its_build_is_named_with_the_verb_that_makes_it(pretend_docker, capsys):
    pretend_docker('[ "$1" = version ] && echo linux/amd64')
    assert main(["invoke", str(ROOT / "events/predict.json")]) == 1
    assert capsys.readouterr().err == "shutterless: There is no image shutterless-inference yet. Make it: make images.\n"


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xd8"])
def test_invoke_refuses_what_is_no_event(tmp_path, content, capsys):
    event = tmp_path / "event.json"
    if content is not None:
        event.write_bytes(content)
    assert main(["invoke", str(event)]) == 1
    assert "event.json" in capsys.readouterr().err


def test_a_model_is_baked_in_by_name_and_newest_version(tmp_path, make_bundle):
    assert bundle_in_models("eurosat-lite0").startswith("eurosat-lite0/")
    with pytest.raises(NotFound):
        bundle_in_models("missing")
    with pytest.raises(BadSettings, match="models folder"):
        bundle_in_models(str(make_bundle(tmp_path)))


@pytest.mark.parametrize("name", ["missing.pem", "LICENSE", "docker/trim.py"])
@pytest.mark.parametrize("option", ["--db-ca", "--signing-key"])
def test_certificates_and_keys_have_to_be_a_pem_file_that_the_build_can_see(option, name, pretend_docker, capsys, monkeypatch):
    monkeypatch.setattr("cli.images.bundle_in_models", lambda model, key: "signed/1")
    pretend_docker("echo linux/amd64")
    assert main(["images", option, name]) == 1
    assert f"{option}: expected a .pem file in the project's folder" in capsys.readouterr().err


def test_a_bundle_that_the_key_did_not_sign_is_not_baked_in(pretend_docker, capsys, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "public.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    pretend_docker("echo linux/amd64")
    assert main(["images", "inference", "--signing-key", str(tmp_path / "public.pem")]) == 1
    assert "not signed" in capsys.readouterr().err


def test_both_recipes_are_plain_enough_for_every_builder():
    for recipe in (ROOT / "docker").glob("*.Dockerfile"):
        text = recipe.read_text()
        stages = re.findall("^FROM (.*)$", text, re.MULTILINE)
        assert len(stages) >= 2
        assert {stage.partition(" AS ")[0] for stage in stages} == {"--platform=${PLATFORM} ${BASE_IMAGE}"}
        for new in ("# syntax=", "<<", "--mount", "--link", "--chmod"):
            assert new not in text
