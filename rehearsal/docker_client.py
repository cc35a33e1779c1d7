"""The docker client: the few words of it that a rehearsal needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

from infra.sources import AWS_BASE
from rehearsal.processes import ended, marked
from shutterless.errors import BadSettings

MANY, ATTEMPTS, REMOVE_S = 20, 50, 300.0  # containers in one command, on a machine that is busy with all the others
PULL_S, MAKE_S = 600.0, 900.0
LOCAL_BASE = "shutterless-base:local"  # that `make base` makes


def docker(*words: str, timeout_s: float = 120) -> str:
    """Standard output of the client. Raises BadSettings, with what it says, where it fails or is not there."""
    if not shutil.which("docker"):
        raise BadSettings("A rehearsal needs Docker, which is not installed. Install it; on Debian: apt-get install docker.io.")
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BadSettings(f"docker {words[0]} has not ended within {timeout_s:.0f} s. "
                          "Look whether Docker answers: docker info.") from None
    if done.returncode:
        raise BadSettings(f"docker {words[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def is_image(name: str) -> bool:
    """Whether Docker has it."""
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


def bridge_address() -> str:
    """Of this machine, as containers see it: the one address that functions and their clients share."""
    told = docker("network", "inspect", "bridge", "--format", "{{with index .IPAM.Config 0}}{{.Subnet}} {{.Gateway}}{{end}}")
    if sys.platform != "linux":
        raise BadSettings("A rehearsal needs Docker on Linux or in WSL: elsewhere containers and machine share no address.")
    subnet, *gateway = told.split()
    return gateway[0] if gateway else str(next(ip_network(subnet).hosts()))  # not told before a second start


def image_names() -> set[str]:
    """All tags that there are."""
    return set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())


def containers(label: str) -> list[str]:
    """Ids of all containers with this label, those that have ended included."""
    return docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}").split()


def remove_containers(label: str) -> None:
    """End and remove all containers with this label, and their volumes; those that end by themselves meanwhile count too."""
    for _ in range(ATTEMPTS):
        found = containers(label)[:MANY]
        if not found:
            return
        subprocess.run(["docker", "rm", "--force", "--volumes", *found], capture_output=True, check=False, timeout=REMOVE_S)
    raise BadSettings(f"Docker does not remove the containers with the label {label}. Remove them by hand.")


def remove_image_names(names: set[str]) -> None:
    """Take these tags away; layers that other tags hold stay."""
    there = names & image_names()
    if there:
        docker("image", "rm", "--no-prune", *sorted(there))


def choose_base(asked: str) -> str:
    """What the functions' images stand on: what was asked for, else AWS's, or, where that cannot be pulled, the local one, by the
    name that changes when it does."""
    if asked != LOCAL_BASE and (asked or is_there(AWS_BASE)):
        return asked or AWS_BASE
    if not is_image(LOCAL_BASE):
        raise BadSettings(f"The image {AWS_BASE} cannot be pulled, and {LOCAL_BASE}, which stands in for it, is not here. "
                          "Make it: make base.")
    return next((tag for tag in _tags(LOCAL_BASE) if re.fullmatch(r"shutterless-base:[0-9a-f]{16}", tag)), LOCAL_BASE)


def _tags(image: str) -> list[str]:
    return docker("image", "inspect", "--format", '{{join .RepoTags " "}}', image).split()


def is_there(image: str) -> bool:
    """Whether Docker has it, or could pull it just now."""
    if is_image(image):
        return True
    try:
        return subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False,
                              timeout=PULL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def build_postgres(tag: str, folder: Path, scratch: Path) -> None:
    """PostgreSQL as RDS gives it, on Docker's official image, or, where that cannot be pulled, on Debian's packages.

    scratch: the folder of this run.
    """
    base = "postgres:15-bookworm"
    if not is_there(base):
        base = "shutterless-postgres-base:local"
        if not is_image(base):
            _make_postgres_base(base, folder, scratch)
    docker("build", "--quiet", "--force-rm", "--tag", tag, "--build-arg", f"BASE_IMAGE={base}", str(folder), timeout_s=600)


def _make_postgres_base(tag: str, folder: Path, scratch: Path) -> None:
    if not shutil.which("mmdebstrap"):
        raise BadSettings("The image postgres:15-bookworm cannot be pulled, and mmdebstrap, which would make a stand-in of "
                          "Debian's packages, is not installed. On Debian or Ubuntu: apt-get install mmdebstrap.")
    with subprocess.Popen([folder / "make-base", tag], env=marked(scratch, {"TMPDIR": str(scratch)}), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as making, \
            ended(making, "The making of PostgreSQL's image"):
        _, error = making.communicate(timeout=MAKE_S)
    if making.returncode:
        raise BadSettings(f"PostgreSQL's image could not be made of Debian's packages: {error.decode().strip()[-500:]}")
