"""CDK's own command line, as a person calls it, against the emulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rehearsal.emulator_process import Place
from rehearsal.processes import ended, marked
from shutterless.errors import BadSettings

STAGE = "rehearsal"
ACCOUNT = "000000000000"
LATE_S = 1800.0  # of a deploy that builds images on a busy machine
WRAPPER = Path(__file__).parent / "docker-to-emulator"
QUICK_POLLS = Path(__file__).parent / "quick-polls.cjs"


class DeployFailed(BadSettings):
    """CDK ended with an error, or too late: the end of what it wrote."""


@dataclass(frozen=True)
class Cdk:
    """folder: where it may write. project: what is deployed. base_image: what the functions' images stand on."""

    place: Place
    folder: Path
    project: Path
    base_image: str

    def pushed(self) -> list[str]:
        """All images that were pushed so far, by name."""
        return self._pushes.read_text().splitlines() if self._pushes.exists() else []

    @property
    def _pushes(self) -> Path:
        return self.folder / "pushes"

    def bootstrap(self) -> str:
        return self._run("bootstrap", f"aws://{ACCOUNT}/{self.region}", folder=self.folder)

    def deploy(self) -> str:
        """All stacks. Returns what CDK wrote.

        AWS's rules and CloudFormation's grammar are left to tests/infra/test_nag.py, which hold the same templates to them: they
        would take most of a synth's time, three times.
        """
        return self._run("deploy", "--all", "--concurrency", "4", "--asset-build-concurrency", "2", "--require-approval", "never",
                         "-c", f"stage={STAGE}", "-c", "rules=off", "--no-validation", "--output", self._out)

    @property
    def region(self) -> str:
        return self.place.environment()["AWS_REGION"]

    @property
    def _out(self) -> str:
        return str(self.folder / "cdk/cdk.out")

    def _run(self, verb: str, *words: str, folder: Path | None = None) -> str:
        """In the project's folder, where CDK finds the app, or in another, where it finds none and need not synthesize."""
        command = [str(self.project / "infra/node_modules/.bin/cdk"), verb, *words, "--no-notices"]
        log = self.folder / f"cdk-{verb}.log"
        scratch = self.folder / "cdk"
        (scratch / "tmp").mkdir(parents=True, exist_ok=True)
        environment = {**self.place.environment(), "CDK_DOCKER": str(WRAPPER), "CDK_HOME": str(scratch / "home"),
                       "REHEARSAL_REGISTRY": f"localhost:{self.place.port}", "REHEARSAL_PUSHES": str(self._pushes),
                       "DOCKER_BUILDKIT": "0", "TMPDIR": str(scratch / "tmp"), "CI": "1", "NO_COLOR": "1",
                       "NODE_OPTIONS": f"--require={QUICK_POLLS}",
                       "CDK_DEFAULT_ACCOUNT": ACCOUNT, "CDK_DEFAULT_REGION": self.region,
                       "BASE_IMAGE": self.base_image, "PYTHONPATH": str(self.project),
                       "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                       "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1", "CDK_DISABLE_LEGACY_EXPORT_WARNING": "1"}
        with log.open("ab") as out:
            process = subprocess.Popen(command, cwd=folder or self.project, env=marked(self.folder, environment),
                                       stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
            with ended(process, f"cdk {verb}"):
                process.wait(LATE_S)
        written = plain(log.read_text(errors="replace"))
        if process.returncode:
            raise DeployFailed(f"{verb} failed:\n" + "\n".join(written.splitlines()[-20:]))
        return written


def plain(text: str) -> str:
    """Without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
