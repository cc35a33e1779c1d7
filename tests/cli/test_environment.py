from pathlib import Path

import pytest

from cli.environment import bundle_folder, choose_model, read_env_file, read_settings
from shutterless.errors import BadSettings, NotFound


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """An empty working folder, and none of the variables set."""
    from shutterless.settings import variable_names

    monkeypatch.chdir(tmp_path)
    for name in variable_names():
        monkeypatch.delenv(name, raising=False)


def test_what_is_typed_beats_the_environment_and_that_the_env_file(monkeypatch):
    Path(".env").write_text("SHUTTERLESS_PORT=1001\nSHUTTERLESS_WORKERS=7\nSHUTTERLESS_THREADS=5\n")
    monkeypatch.setenv("SHUTTERLESS_PORT", "1002")
    monkeypatch.setenv("SHUTTERLESS_WORKERS", "8")
    settings = read_settings(SHUTTERLESS_PORT="1003", SHUTTERLESS_WORKERS=None)
    assert (settings.port, settings.workers, settings.threads) == (1003, 8, 5)


def test_an_env_file_may_hold_comments_quotes_and_export(tmp_path):
    (tmp_path / ".env").write_text('# A=1\n\nexport B=2\n C = "x = #y" \nnonsense\nD=\n')
    assert read_env_file(tmp_path / ".env") == {"B": "2", "C": "x = #y", "D": ""}
    assert read_env_file(tmp_path / "none") == {}


def test_an_env_file_may_begin_with_the_mark_of_windows_editors(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfA=1\r\nB=2\r\n")
    assert read_env_file(tmp_path / ".env") == {"A": "1", "B": "2"}


def test_an_env_file_that_is_not_utf_8_is_refused_in_a_sentence():
    Path(".env").write_bytes("SHUTTERLESS_MODEL=größe".encode("latin-1"))
    with pytest.raises(BadSettings, match=r"^\.env: expected text in UTF-8, got other bytes\. Save it"):
        read_settings()


@pytest.mark.parametrize(("typed", "variables"), [
    (None, {}),
    ("land", {"SHUTTERLESS_MODEL": "land", "MODEL_URI": ""}),
    ("land/2", {"SHUTTERLESS_MODEL": "land/2", "MODEL_URI": ""}),
    ("./land", {"MODEL_URI": "land"}),
    ("/srv/land/2", {"MODEL_URI": "/srv/land/2"}),
    ("models/land/2", {"MODEL_URI": "models/land/2"})])
def test_model_is_a_name_or_a_place(typed, variables):
    assert choose_model(typed) == variables


def test_a_folder_that_holds_a_bundle_is_a_place_however_it_is_written(bundle_folder, monkeypatch):
    monkeypatch.chdir(bundle_folder.parent)
    assert choose_model("1") == {"MODEL_URI": "1"}


def test_a_typed_name_beats_a_place_in_the_environment(monkeypatch, models_dir):
    monkeypatch.setenv("MODEL_URI", "/nowhere")
    monkeypatch.setenv("SHUTTERLESS_MODELS_DIR", str(models_dir))
    assert bundle_folder(read_settings(model="colours")) == models_dir / "colours" / "1"
    assert bundle_folder(read_settings()) == Path("/nowhere")


def test_an_unknown_name_is_answered_with_those_that_are_there(monkeypatch, models_dir):
    monkeypatch.setenv("SHUTTERLESS_MODELS_DIR", str(models_dir))
    with pytest.raises(NotFound, match="colours/1"):
        bundle_folder(read_settings(model="colors"))
