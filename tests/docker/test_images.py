"""What is in the images, and what is not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.images import build_all, source_hash
from cli.main import main

pytestmark = [pytest.mark.needs("docker"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MOST_BYTES = 115_000_000  # compressed, with the model that ships
HANDLERS = {"api": ("upload", "query", "migrate"), "inference": ("predict", "infer")}


@pytest.fixture(params=HANDLERS)
def image(request: pytest.FixtureRequest, images) -> tuple[str, str]:
    """Its name and its tag."""
    return request.param, images[request.param]


@pytest.fixture
def shell(docker_client, image):
    """`shell("ls")`: what a command in a container of the image prints."""
    def shell(command: str) -> str:
        return docker_client.containers.run(image[1], ["-c", command], entrypoint="/bin/sh", remove=True).decode()
    return shell


def test_sources_that_did_not_change_build_nothing(images, base_image, capfd):
    before = docker("image", "inspect", "--format", "{{.Id}}", *images.values())
    assert build_all(base_image=base_image) == images
    assert capfd.readouterr().out.count("there already, as no source of it has changed") == 2
    assert docker("image", "inspect", "--format", "{{.Id}}", *images.values()) == before


def test_an_image_is_small_and_its_tags_are_its_hash_and_latest(image, docker_client):
    name, tag = image
    found = docker_client.images.get(tag)
    assert re.fullmatch(rf"shutterless-{name}:[0-9a-f]{{16}}", tag)
    assert f"shutterless-{name}:latest" in found.tags
    saving = subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE)
    packed = subprocess.run(["gzip", "-c"], stdin=saving.stdout, capture_output=True, check=True).stdout
    saving.communicate()
    assert len(packed) < MOST_BYTES


def test_an_image_runs_as_nobody_special_and_may_be_snapshot(image, docker_client, shell):
    config = docker_client.images.get(image[1]).attrs["Config"]
    assert config["User"] == "1000:1000"
    assert shell("id -u").strip() == "1000"
    assert shell("touch /var/task/x 2>&1 || true").strip().endswith("Permission denied")
    assert config["Labels"]["com.amazonaws.lambda.feature.snapstart"] == "Allow"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"


def test_an_image_holds_every_module_compiled_no_test_no_compiler_and_no_cache(shell):
    without = "[p for p in Path('/var/task').rglob('*.py') if not Path(util.cache_from_source(p)).exists()]"
    assert shell(f'python3 -c "from importlib import util; from pathlib import Path; print({without})"').strip() == "[]"
    assert shell("find /var/task -name tests -o -name testing -o -name conftest.py -o -name '*.pyx' -o -name '*.pyi'") == ""
    assert shell("which gcc cc g++ make 2>/dev/null || true") == ""
    assert shell("find / -xdev \\( -path '*/.cache/*' -o -path '/tmp/*' -o -name '*.whl' \\) 2>/dev/null || true") == ""
    assert shell("ls -d /var/task/torch /var/task/transformers 2>/dev/null || true") == ""


def test_compiled_modules_are_the_ones_that_python_takes(shell, image):
    handlers = ", ".join(f"lambdas.{name}" for name in HANDLERS[image[0]])
    compiled = shell(f"python3 -v -c 'import {handlers}' 2>&1 | grep -c 'code object from .*/var/task.*py.' || true")
    fresh = shell(f"python3 -v -c 'import {handlers}' 2>&1 | grep 'code object from .*/var/task' | grep -v '\\.pyc' || true")
    assert int(compiled) > 5
    assert fresh == ""


def test_every_package_of_the_lock_is_there_with_its_licence(shell, image):
    lock = (ROOT / "requirements" / f"{image[0]}.txt").read_text()
    pins = re.findall(r"^([\w.-]+)==\S+ ?(?!.*(?:win32|< '3\.12'))", lock, re.MULTILINE)
    wanted = {name.lower().replace("-", "_") for name in pins}
    folders = shell("cd /var/task; ls -d *.dist-info").split()
    assert wanted == {folder.rpartition("-")[0].partition("-")[0].lower() for folder in folders}
    licences = shell("cd /var/task; find *.dist-info onnxruntime -iname '*licen[cs]e*' -o -iname 'copying*' -o "
                     "-iname 'ThirdPartyNotices*' 2>/dev/null || true")
    assert [folder for folder in folders if folder not in licences and not folder.startswith("onnxruntime")] == []
    assert ("onnxruntime/ThirdPartyNotices.txt" in licences) == (image[0] == "inference")
    assert "MIT License" in shell("cat /var/task/LICENSE")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", HANDLERS)
def test_every_package_has_a_wheel_for_both_kinds_of_machine(name, machine, tmp_path):
    done = subprocess.run([Path(sys.executable).with_name("uv"), "pip", "install", "--dry-run", "--target", tmp_path, "--no-deps",
                           "--only-binary", ":all:", "--require-hashes", "--python-version", "3.13", "--python-platform",
                           f"{machine}-manylinux_2_28", "-r", ROOT / f"requirements/{name}.txt"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_change_of_a_source_changes_the_hash_and_one_elsewhere_does_not(tmp_path, monkeypatch):
    for name in ("shutterless/a.py", "lambdas/b.py", "requirements/api.txt", "docker/trim.py", "LICENSE", "NOTICE", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    recipe = tmp_path / "docker/api.Dockerfile"
    recipe.write_bytes((ROOT / "docker/api.Dockerfile").read_bytes())
    monkeypatch.setattr("infra.sources.ROOT", tmp_path)
    first = source_hash(recipe, {"BASE_IMAGE": "a"})
    (tmp_path / "README.md").write_text("after")
    assert source_hash(recipe, {"BASE_IMAGE": "a"}) == first
    hashes = [first, source_hash(recipe, {"BASE_IMAGE": "b"})]
    for name in ("shutterless/a.py", "lambdas/b.py", "requirements/api.txt", "docker/trim.py"):
        (tmp_path / name).write_text("after")
        hashes.append(source_hash(recipe, {"BASE_IMAGE": "a"}))
    assert len(set(hashes)) == len(hashes)


def test_invoke_prints_the_answer_and_leaves_no_container(images, capfd, docker_client):
    before = {container.id for container in docker_client.containers.list(all=True)}
    assert main(["invoke", str(ROOT / "events/predict.json"), "--port", "9753"]) == 0
    shown = capfd.readouterr()
    assert json.loads(json.loads(shown.out)["body"])["model"]["name"] == "eurosat-lite0"
    assert "INIT REPORT" in shown.err
    assert {container.id for container in docker_client.containers.list(all=True)} <= before


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
