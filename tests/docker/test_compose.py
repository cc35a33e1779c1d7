"""docker/compose.yml: what it starts is pinned, what it mounts is there, and what it must be told is listed and not told here."""

import re
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
TEXT = (DOCKER / "compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
EXAMPLE = (DOCKER / "compose.env.example").read_text()


def test_all_five_come_up_together():
    assert set(SERVICES) == {"server", "database", "prometheus", "alertmanager", "grafana"}
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"server"}))
def test_an_image_of_others_is_pinned_by_its_version(name):
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_from_here_is_there_and_read_only(name):
    for volume in SERVICES[name]["volumes"]:
        if volume.startswith("."):
            assert (DOCKER / volume.split(":")[0]).is_dir()
            assert volume.endswith(":ro")


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_reached_from_other_machines(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


def test_what_it_must_be_told_is_listed_without_a_value_and_no_password_is_written_down():
    asked = set(re.findall(r"\$\{(\w+):\?", TEXT)) | {"SHUTTERLESS_METRICS_KEY"}
    assert asked == set(re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE))
    optional = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", TEXT))
    assert optional == dict(re.findall(r"^#(\w+)=(.+)$", EXAMPLE, re.MULTILINE))
    secret = re.findall(r"(?:PASSWORD|KEYS?|_KEY): (.+)$", TEXT, re.MULTILINE)
    assert len(secret) == 4
    assert all(value.startswith("${") for value in secret)


def test_the_server_is_told_only_what_it_knows():
    from shutterless.settings import variable_names

    assert set(SERVICES["server"]["environment"]) <= set(variable_names())


def test_the_build_takes_the_recipe_s_own_arguments():
    recipe = (DOCKER / "onprem.Dockerfile").read_text()
    build = SERVICES["server"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    assert dict(re.findall(r"^ARG (\w+)=(.+)$", recipe, re.MULTILINE)) == {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in build["args"].items()}
