"""What the files around the code promise: README, Makefile, locks, CI, and nothing that belongs to one machine."""

import os
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import shutterless
from cli.main import GROUPS, build_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.name != "torch.txt")
IMAGES = ("api", "inference")
VERBS = re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
COMMANDS = [command.__name__.removeprefix("cli.").replace("_", "-") for _, members in GROUPS for command in members]


@cache
def tracked_files() -> dict[str, str]:
    """Name -> text of every text file that git has, or would have if all were added."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            text=True, capture_output=True, check=True).stdout.split("\0")
    contents = {name: (ROOT / name).read_bytes() for name in listed if name and (ROOT / name).is_file()}
    return {name: content.decode(errors="replace") for name, content in contents.items() if b"\0" not in content[:8000]}


def make(*arguments: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """make, as if nobody had called it from another make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment | variables, capture_output=True, text=True,
                          check=False)


# Nothing that belongs to one machine.

def test_no_file_names_the_address_of_a_registry():
    hosts = re.compile(r"://[\w.-]*(pypi|pythonhosted|npmjs|debian)\b", re.IGNORECASE)
    assert {name: found[0] for name, text in tracked_files().items() if (found := hosts.search(text))} == {}


def test_no_file_names_a_path_of_one_machine():
    neighbours = [re.escape(f"{path}/") for path in ROOT.parent.iterdir() if path.is_dir() and len(path.parts) > 2]
    paths = re.compile("|".join([*neighbours, r"/(home|Users)/\w+/", r"/root[/]"]))
    assert {name: found[0] for name, text in tracked_files().items() if (found := paths.search(text))} == {}


def test_no_file_is_too_large_for_git():
    sizes = {name: (ROOT / name).stat().st_size for name in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > 1_000_000} == {}


# Locks.

def pins(lock: Path) -> dict[str, list[tuple[Requirement, int]]]:
    """Package -> its pins (one per marker) with the number of hashes of each."""
    entries = re.split(r"\n(?=[^\s#])", re.sub(r"^\s*#.*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE))
    found: dict[str, list[tuple[Requirement, int]]] = {}
    for entry in entries:
        pin = Requirement(entry.partition(" \\\n")[0])
        found.setdefault(pin.name, []).append((pin, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))))
    return found


def wanted(extra: str) -> list[Requirement]:
    """What an extra asks for, the extras that it names opened out."""
    if extra in PROJECT["dependency-groups"]:
        return [Requirement(text) for text in PROJECT["dependency-groups"][extra]]
    if extra in ("api", "inference"):
        left_out = (ROOT / "requirements" / f"not-in-{extra}.in").read_text().split("\n")
        return [requirement for requirement in wanted("lambda") if requirement.name not in left_out]
    asked = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"][extra]]
    inner = [name for requirement in asked if requirement.name == "shutterless" for name in requirement.extras]
    return [*map(Requirement, PROJECT["project"]["dependencies"]), *(r for r in asked if r.name != "shutterless"),
            *(requirement for name in inner for requirement in wanted(name))]


def test_there_is_a_lock_for_every_place_where_code_runs():
    assert [lock.stem for lock in LOCKS] == ["api", "base", "bench", "compiler", "dev", "export", "inference", "infra",
                                               "installer", "onprem", "rehearsal"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_every_package_by_version_and_hash_and_names_no_address(lock):
    assert "://" not in lock.read_text(encoding="utf-8")
    for name, entries in pins(lock).items():
        for pin, hashes in entries:
            assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), name
            assert hashes > 0, name


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_holds_what_pyproject_asks_for_in_versions_that_fit(lock):
    pinned = pins(lock)
    for requirement in wanted(lock.stem):
        versions = [str(pin.specifier).removeprefix("==") for pin, _ in pinned.get(requirement.name, [])]
        assert versions, f"{requirement.name} is missing: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: make lock"


def test_locks_agree_so_that_no_extra_replaces_what_another_installed():
    dev = pins(ROOT / "requirements/dev.txt")
    for extra in ("api", "inference", "onprem", "export", "bench"):
        for name, entries in pins(ROOT / f"requirements/{extra}.txt").items():
            assert {str(pin) for pin, _ in entries} <= {str(pin) for pin, _ in dev[name]}, f"{name} in {extra}"


def test_torch_is_pinned_outside_the_locks_and_nothing_of_it_is_in_them():
    torch = [Requirement(line) for line in (ROOT / "requirements/torch.txt").read_text().splitlines() if line[0] != "#"]
    assert [requirement.name for requirement in torch] == ["torch", "torchvision"]
    assert all(str(requirement.specifier).startswith("==") for requirement in torch)
    for lock in LOCKS:
        assert [name for name in pins(lock) if re.match("torch|nvidia|cuda|triton", name)] == []


# Makefile and CI.

def test_make_alone_prints_every_verb_with_what_it_does():
    done = make()
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_parses(verb):
    done = make("--dry-run", verb)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_verb_is_phony():
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name in " ".join(phony).split() if "$" not in name} == set(VERBS)


def test_local_takes_model_port_and_a_typed_host():
    done = make("-n", "local", "PORT=9000", "MODEL=land", HOST="x86_64-linux-gnu")
    serve = done.stdout[done.stdout.index("shutterless serve"):]
    assert "--model 'land' --port '9000'" in serve
    assert "--host" not in serve, "a HOST of the environment is none of ours"
    assert "--host '0.0.0.0'" in make("-n", "local", "HOST=0.0.0.0").stdout


def test_verbs_drive_commands_and_modules_that_exist():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    driven = re.findall(r"\$\(BIN\)/shutterless ([a-z]+)", text)
    assert driven
    assert set(driven) <= set(COMMANDS)
    for module in re.findall(r"python -m (benchmarks[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize(("interpreter", "sentence"), [
    ("exit 1", "Shutterless needs Python 3.11 or newer; none of these is: {python}."),
    ('case "$2" in *ensurepip*) exit 1;; esac', "{python} cannot make a virtual environment.")])
def test_a_machine_without_the_python_that_is_needed_is_told_what_to_install(tmp_path, interpreter, sentence):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{interpreter}\n")
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    done = make("local", f"PYTHON={python}", folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith(sentence.format(python=python))
    assert not (tmp_path / ".venv").exists()


def test_ci_is_executable_and_leaves_no_test_out():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make test REQUIRE=all" in (ROOT / ".ci/run").read_text()


def test_the_version_is_told_once():
    assert PROJECT["project"]["version"] == shutterless.__version__


# README.

def tree() -> list[str]:
    """Paths in the README's tree; indented ones lie in the folder above them."""
    block = README.split("## Where things are")[1].split("```")[1]
    paths, folder = [], ""
    for line in block.splitlines()[1:]:
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
            paths.append(name)
        else:
            paths.append(folder + name)
    return paths


def test_every_path_in_the_readme_exists():
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    quoted = re.findall(r"`([\w./-]+/[\w.-]*|[\w-]+\.(?:toml|md|txt|example))`", README)
    for path in {*linked, *quoted, *tree()}:
        is_route_or_made = path.startswith(("/", ".venv/", "var/"))
        assert is_route_or_made or (ROOT / path).exists(), path


def test_the_readme_s_tree_has_a_line_for_every_folder_and_module():
    listed, inside = set(tree()), set()
    for name in tracked_files():
        top, _, rest = name.partition("/")
        inside.add(f"{top}/" if rest else top)
        if re.fullmatch(r"(shutterless|onprem|model_export|benchmarks)/[a-z]\w*\.(py|html)", name):
            inside.add(name)
    assert inside - listed == {".ci/", ".gitignore", "README.md"}


def test_every_command_in_the_readme_is_a_verb_or_a_command():
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(README))) <= set(VERBS)
    assert set(re.findall(r"shutterless ([a-z][a-z-]*)", code_of(README))) <= set(COMMANDS)


def test_what_the_readme_passes_to_a_verb_is_taken_by_its_command():
    calls = re.findall(r'make (train|export|publish) ARGS="([^"]*)"', README)
    assert {verb for verb, _ in calls} == {"train", "export", "publish"}
    for verb, arguments in calls:
        assert build_parser().parse_args([verb, *arguments.split()])


def test_every_verb_and_every_command_is_in_the_readme():
    for verb in set(VERBS) - {"help"}:
        assert re.search(rf"`?make {verb}\b", README), verb
    for command in COMMANDS:
        assert re.search(rf"`(shutterless )?{command}\b", README), command


def test_every_dependency_has_its_reason_in_the_readme():
    reasons = README.split("## What it stands on")[1].split("\n## ")[0]
    named = {name for row in re.findall(r"^\| ([\w, -]+) \|", reasons, re.MULTILINE) for name in row.split(", ")}
    places = (*PROJECT["project"]["optional-dependencies"], *PROJECT["dependency-groups"])
    asked = {requirement.name for place in places for requirement in wanted(place)}
    assert asked - named == set()
    assert named - asked - {"package", "---", "torch", "torchvision"} == set()


def test_the_readme_promises_no_deploy_before_there_is_one():
    assert ("make deploy" in README) == ("deploy" in VERBS)


def code_of(markdown: str) -> str:
    """Its code blocks and quoted words, a line each."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S))])
