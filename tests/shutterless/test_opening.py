import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from shutterless.errors import BadBundle, NotFound
from shutterless.opening import default_folder, open_bundle
from shutterless.settings import Settings

ROOT = Path(__file__).parents[2]


def test_a_bundle_is_found_by_name_or_by_its_place(models_dir, bundle_folder, tmp_path, monkeypatch):
    assert default_folder(Settings(model="colours", models_dir=models_dir)) == bundle_folder
    monkeypatch.chdir(bundle_folder.parent)
    assert default_folder(Settings(model_uri="1", models_dir=tmp_path)) == bundle_folder
    with pytest.raises(NotFound, match="colours/1"):
        default_folder(Settings(model="colors", models_dir=models_dir))


def test_without_a_key_an_unsigned_bundle_opens_and_nothing_is_loaded_to_check_one(bundle_folder):
    code = ("import sys; from pathlib import Path; from shutterless.opening import open_bundle\n"
            "from shutterless.settings import Settings\n"
            "print(open_bundle(Settings(), Path(sys.argv[1])).sha256); print(*sys.modules)")
    shown = subprocess.run([sys.executable, "-c", code, bundle_folder], cwd=ROOT, capture_output=True, text=True, check=True)
    digest, modules = shown.stdout.splitlines()
    assert digest == hashlib.sha256((bundle_folder / "manifest.json").read_bytes()).hexdigest()
    assert not {"cryptography", "shutterless.signatures", "boto3"} & set(modules.split())


def test_with_a_key_the_digests_are_checked_before_the_signature(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "models")
    settings = Settings(signing_key=tmp_path / "absent.pem")
    (folder / "model.onnx").write_bytes(b"x" * json.loads((folder / "manifest.json").read_text())["files"]["model.onnx"]["bytes"])
    with pytest.raises(BadBundle, match=r"model\.onnx: expected sha256"):
        open_bundle(settings, folder)
