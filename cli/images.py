"""Build the container images of the functions; where no source has changed, nothing is built.

An image's tags are the hash of its sources, and `latest`. `api` holds the functions upload, query and migrate,
`inference` predict and infer, with the model baked in. `onprem` is the server, for a machine of your own; it is built when it is
named, on Python's own base. `base` is a stand-in for AWS's base image, for machines that reach
no container registry; it needs Debian's mmdebstrap and root.

examples:
  shutterless images
  shutterless images inference --model my-model
  shutterless images base
  shutterless images --base-image shutterless-base:local
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.sources import (
    AWS_BASE,
    ROOT,
    arguments_of,
    bundle_of_project,
    files_of,
    hash_of,
    pem_of_project,
    recipe_of,
    source_hash,
)
from shutterless.errors import BadSettings

PYTHON_BASE = "python:3.13-slim"
LOCAL_BASE = "shutterless-base:local"
IMAGES = ("api", "inference")  # what Lambda runs
ALL_IMAGES = (*IMAGES, "onprem")
BASE_SOURCES = ("docker/base", "requirements/base.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images, and what goes into them."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", type=_image, default=IMAGES,
                        help="api, inference, onprem or base (default: api inference)")
    parser.add_argument("--model", metavar="MODEL", help="the bundle to bake in: NAME (its newest version) or NAME/VERSION")
    parser.add_argument("--base-image", metavar="IMAGE",
                        help=f"what they stand on (default: {AWS_BASE}, onprem: {PYTHON_BASE}; where that cannot be pulled, "
                             f"{LOCAL_BASE} if it is here)")
    parser.add_argument("--db-ca", type=Path, metavar="FILE",
                        help="certificates that vouch for the database, such as RDS's bundle; a .pem file of this folder")
    parser.add_argument("--signing-key", type=Path, metavar="FILE",
                        help="the public key with which every bundle must be signed; a .pem file of this folder")
    parser.add_argument("--platform", metavar="PLATFORM", choices=["linux/amd64", "linux/arm64"],
                        help="linux/amd64 or linux/arm64 (default: what Docker runs on)")


def run(arguments: argparse.Namespace) -> int:
    """Build what is not there yet, and say what each image weighs."""
    docker_platform()
    if "base" in arguments.images:
        build_base()
    build_all([name for name in ALL_IMAGES if name in arguments.images], base_image=arguments.base_image, model=arguments.model,
              db_ca=arguments.db_ca, signing_key=arguments.signing_key, platform=arguments.platform)
    return 0


def build_all(names: Sequence[str] = IMAGES, *, base_image: str | None = None, model: str | None = None,
              db_ca: Path | None = None, signing_key: Path | None = None, platform: str | None = None) -> dict[str, str]:
    """Build what is not there yet; returns name -> tag. Raises BadSettings for what is missing, or fails; BadBundle for a
    bundle that is not signed with `signing_key`."""
    if not names:
        return {}
    values = {"MODEL": bundle_in_models(model, signing_key), "DB_CA": pem_of_project("--db-ca", db_ca),
              "SIGNING_KEY": pem_of_project("--signing-key", signing_key), "PLATFORM": platform or docker_platform()}
    bases = {usual: fetch_base(base_image, usual) for usual in {_usual_base(name) for name in names}}
    return {name: build(name, values | {"BASE_IMAGE": bases[_usual_base(name)]}) for name in names}


def _usual_base(name: str) -> str:
    return AWS_BASE if name in IMAGES else PYTHON_BASE


def _image(name: str) -> str:
    if name not in (*ALL_IMAGES, "base"):
        raise argparse.ArgumentTypeError(f"expected api, inference, onprem or base, got {name!r}")
    return name


def build(name: str, values: Mapping[str, str]) -> str:
    """Build docker/<name>.Dockerfile with the build arguments `values`, unless it was; returns its tag, name:hash."""
    recipe = recipe_of(name)
    values = arguments_of(recipe, values)
    tag = f"shutterless-{name}:{source_hash(recipe, values)}"
    if is_there(tag):
        print(f"{tag}: there already, as no source of it has changed")
    else:
        options = [word for item in values.items() for word in ("--build-arg", "=".join(item))]
        _docker("build", "--force-rm", "--file", str(recipe), "--tag", tag, *options, ".",
                remedy="The lines above say which step of the build failed.")
        print(f"{tag}: built, {_compressed_bytes(tag) / 1e6:.1f} MB compressed")
    _docker("tag", tag, f"shutterless-{name}:latest")
    return tag


def build_base() -> None:
    """Make LOCAL_BASE, unless these sources made it before."""
    tag = _local_base()
    if is_there(tag):
        print(f"{tag}: there already, as no source of it has changed")
    else:
        if not shutil.which("mmdebstrap"):
            raise BadSettings("The local base image is made of Debian packages by mmdebstrap, which is not installed. "
                              "On Debian or Ubuntu: apt-get install mmdebstrap.")
        made = subprocess.run([ROOT / "docker/base/make-base", tag], check=False, stdout=sys.stderr,
                              env={**os.environ, "UV": str(Path(sys.executable).with_name("uv"))})
        if made.returncode:
            raise BadSettings("The local base image could not be made. The lines above say why.")
        print(f"{tag}: made, {_compressed_bytes(tag) / 1e6:.1f} MB compressed")
    _docker("tag", tag, LOCAL_BASE)


def _local_base() -> str:
    """The tag behind LOCAL_BASE, so that images built on it change when it does."""
    return f"shutterless-base:{hash_of(files_of(BASE_SOURCES), {})}"


def bundle_in_models(model: str | None, signing_key: Path | None = None) -> str:
    """NAME/VERSION of a bundle that lies in the project's models folder, is whole and, where a key is given, signed."""
    from cli.environment import read_settings

    settings = read_settings()
    name, bundle = bundle_of_project(model or settings.model)
    key = signing_key or settings.signing_key
    if key is not None:
        from shutterless.signatures import check_signature

        check_signature(bundle, key)
    return name


def docker_platform() -> str:
    """What the daemon runs on. Raises BadSettings where there is none."""
    if not shutil.which("docker"):
        raise BadSettings("Images are built by Docker, which is not installed. Install it; on Debian: apt-get install docker.io.")
    asked = subprocess.run(["docker", "version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"], capture_output=True,
                           text=True, check=False)
    if asked.returncode:
        raise BadSettings("Docker does not answer. Start it (Linux: systemctl start docker, or dockerd), or become a user who "
                          "may ask it.")
    return asked.stdout.strip()


def fetch_base(asked: str | None = None, usual: str = AWS_BASE) -> str:
    """Pull a base image if it is not there, the usual one where none is asked for; returns its name. Where that cannot be had
    and the local one is here, that is taken, and said. Raises BadSettings."""
    image = _local_base() if asked == LOCAL_BASE else asked or usual
    if is_there(image) or not subprocess.run(["docker", "pull", "--quiet", image], stdout=sys.stderr, check=False).returncode:
        return image
    if asked is None and is_there(_local_base()):
        print(f"{usual} cannot be pulled: building on {LOCAL_BASE}, to try the functions here; do not deploy these.",
              file=sys.stderr)
        return _local_base()
    raise BadSettings(f"The base image {image} is not here and cannot be pulled. Where no container registry can be reached, "
                      f"make a local one: make base, then make images BASE_IMAGE={LOCAL_BASE}.")


def is_there(image: str) -> bool:
    """Whether Docker has it."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def _docker(*words: str, remedy: str = "") -> None:
    """Run the docker client in the project's folder; what it prints goes to standard error."""
    # Lambda refuses images with attestations.
    done = subprocess.run(["docker", *words], cwd=ROOT, check=False, stdout=sys.stderr,
                          env={**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"})
    if done.returncode:
        raise BadSettings(f"docker {words[0]} failed. {remedy or 'The lines above say why.'}")


def _compressed_bytes(tag: str) -> int:
    """Bytes of `docker save`, gzipped: about what a registry stores and a cold start pulls."""
    packer, total = zlib.compressobj(wbits=31), 0
    with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as saving:
        while saving.stdout and (chunk := saving.stdout.read(1 << 20)):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())
