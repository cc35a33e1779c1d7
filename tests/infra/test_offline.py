"""Synth as a person starts it, on a machine with nothing but the project: no credentials, no network, no Docker."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal.project import copy_project
from tests.infra.synthesized import SYNTH_S

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--map-root-user", "--net"]  # without a network, where this machine lets a process be so


@pytest.mark.timeout(SYNTH_S)
def test_a_stage_is_synthesized_without_credentials_network_and_docker(tmp_path):
    project = tmp_path / "project"
    copy_project(project)
    shutil.rmtree(project / "ui", ignore_errors=True)  # the page may be built where these tests run
    unshare = shutil.which(ALONE[0])
    can_be_alone = unshare and not subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode
    environment = {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "PYTHONPATH": str(project),
                   "CDK_OUTDIR": str(tmp_path / "out"), "CDK_CONTEXT_JSON": json.dumps({"stage": "dev"}),
                   "AWS_EC2_METADATA_DISABLED": "true", "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1"}
    if not shutil.which("node", path=environment["PATH"]):
        environment["PATH"] += os.pathsep + str(Path(shutil.which("node") or "").parent)
    assert not shutil.which("docker", path=environment["PATH"])
    command = [*([unshare, *ALONE[1:]] if can_be_alone else []), sys.executable, "app.py"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = {file.name.partition(".")[0] for file in (tmp_path / "out").glob("*.template.json")}
    assert written == {"Registry", "Site", "Data", "Service", "Account", "Api", "Watch"}
    assert "its page was not built" in (tmp_path / "out/page/index.html").read_text()


@pytest.mark.timeout(SYNTH_S)
@pytest.mark.parametrize("stage", [None, "production"])
def test_a_stage_that_is_not_there_is_one_sentence(tmp_path, stage):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CDK_OUTDIR": str(tmp_path),
                                "CDK_CONTEXT_JSON": json.dumps({"stage": stage} if stage else {})}
    done = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "shutterless: Expected a stage, one of dev, staging, prod, rehearsal" in done.stderr
    assert "Traceback" not in done.stderr
