"""Look whether this machine and your AWS account have what a deploy needs, and say for all that is missing what mends it.

Nothing is changed or deployed.

examples:
  shutterless doctor
  shutterless doctor prod
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.tables import print_table
from shutterless.errors import BadSettings

if TYPE_CHECKING:
    from infra.account_checks import Check
    from infra.stages import Stage

NODE = 18  # the oldest that CDK's command line takes
EMULATED = {"linux/amd64": "qemu-x86_64", "linux/arm64": "qemu-aarch64"}  # as Linux calls who runs the others' programs
EMULATORS = Path("/proc/sys/fs/binfmt_misc")
INSTALL = "make synth"  # installs what it needs, in the versions of the locks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stage is to be deployed."""
    parser.add_argument("stage", metavar="STAGE", nargs="?", default="dev", help="a stage of infra/stages.py (default: dev)")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, print it, return 1 where something is missing."""
    from infra.account_checks import check_account
    from infra.deployed import Deployed
    from infra.page import page_of_project
    from infra.stages import stage_named

    stage = stage_named(arguments.stage)
    checks = [*check_versions(), *check_docker(stage), *check_account(Deployed(stage.name), stage)]
    missing = [check for check in checks if not check.is_well]
    print_table(("", "what", "how it is"), [("ok" if check.is_well else "missing", check.what, check.says) for check in checks])
    if missing:
        print("\nWhat mends it:")
        print_table(("what", "command"), [(check.what, check.mend) for check in missing])
    else:
        page = "" if page_of_project().is_built else " ARGS=--without-page"
        print(f"\nNothing is missing: make deploy STAGE={stage.name}{page}")
    return 1 if missing else 0


def check_versions() -> Iterator[Check]:
    """Node, CDK's command line and its library, each as the locks say."""
    from infra.account_checks import Check
    from infra.sources import ROOT

    node = _node()
    yield Check(what="Node", says=node or "not installed",
                mend="" if node and int(node.lstrip("v").partition(".")[0]) >= NODE else INSTALL)
    locked = json.loads((ROOT / "infra/package-lock.json").read_text())["packages"]["node_modules/aws-cdk"]["version"]
    installed = ROOT / "infra/node_modules/aws-cdk/package.json"
    found = json.loads(installed.read_text())["version"] if installed.is_file() else None
    yield _compared("CDK's command line", found, locked)
    (wanted,) = re.findall(r"^aws-cdk-lib==(\S+)", (ROOT / "requirements/infra.txt").read_text(), re.MULTILINE)
    try:
        library = importlib.metadata.version("aws-cdk-lib")
    except importlib.metadata.PackageNotFoundError:
        library = None
    yield _compared("CDK's library", library, wanted)


def _compared(what: str, found: str | None, locked: str) -> Check:
    from infra.account_checks import Check

    if found == locked:
        return Check(what=what, says=found)
    return Check(what=what, says=f"{found or 'not installed'}; the lock says {locked}", mend=INSTALL)


def _node() -> str:
    """Its version, as CDK's command line would find it; "" where there is none."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if not (node := shutil.which("node", path=path)):
        return ""
    return subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603  Node


def check_docker(stage: Stage) -> Iterator[Check]:
    """Whether it answers, and whether it can build for the stage's processor."""
    from cli.images import docker_platform
    from infra.account_checks import Check
    from infra.sources import PLATFORMS

    try:
        platform = docker_platform()
    except BadSettings as error:
        says, _, mend = str(error).partition(". ")
        yield Check(what="Docker", says=says, mend=mend)
        return
    yield Check(what="Docker", says="answers")
    wanted = PLATFORMS[stage.architecture]
    is_desktop = sys.platform != "linux"  # where Docker brings what emulates the others
    can_build = platform == wanted or is_desktop or (EMULATORS / EMULATED[wanted]).exists()
    yield Check(what="platform", says=f"{platform}, and the functions' is {wanted}",
                mend="" if can_build else "docker run --privileged --rm tonistiigi/binfmt --install "
                                          f"{wanted.partition('/')[2]}; or set architecture of {stage.name} in infra/stages.py")
