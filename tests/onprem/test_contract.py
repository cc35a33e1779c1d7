"""The server keeps to its own /openapi.json: Schemathesis asks every operation what the document allows and what it forbids.

It runs in a process of its own, since its pytest plugin, which pyproject.toml turns off, costs every other run of tests a second.
A fault comes with the curl line that shows it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

KEY = "a-key-of-this-test"
ROOT = Path(__file__).parents[2]
SETTINGS = Path(__file__).with_name("schemathesis.toml")
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")


def test_no_answer_but_the_documented_ones_whatever_is_asked(start, database_url, tmp_path) -> None:
    url = start(DATABASE_URL=database_url, SHUTTERLESS_API_KEYS=KEY).url()
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{url}/openapi.json", headers={"x-api-key": KEY}).content)
    asked = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", SETTINGS, "run", document, "--url", url, "--no-color"],
        cwd=tmp_path, env=os.environ | {"API_KEY": KEY, "SCHEMATHESIS_HOOKS": str(HOOKS), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=240)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    operations = sum(map(len, json.loads(document.read_bytes())["paths"].values()))
    assert re.search(rf"Tested: +{operations}\n", asked.stdout)
