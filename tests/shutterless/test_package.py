import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_onnxruntime_reports_to_nobody_unless_told_to(before, after):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    told = environment | ({} if before is None else {"ORT_DISABLE_TELEMETRY": before})
    code = "import os, shutterless.classifier; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    asked = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == after
