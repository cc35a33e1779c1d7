import re
import subprocess
import sys
from pathlib import Path

import pytest

from shutterless.errors import BadSettings, Permanent
from shutterless.settings import Settings, usable_cpus, variable_names

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def example_variables() -> dict[str, str]:
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(lines)


def test_an_empty_environment_gives_the_defaults():
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert (settings.model, settings.model_uri) == ("eurosat-lite0", None)
    assert (settings.max_bytes, settings.max_pixels, settings.max_side) == (20_000_000, 40_000_000, 16_384)
    assert settings.models_dir == Path(__file__).parents[2] / "models"
    assert settings.workers == usable_cpus() >= 1


def test_database_and_objects_follow_the_var_folder_unless_they_are_set():
    settings = Settings.from_environment({"SHUTTERLESS_VAR_DIR": "/srv/state"})
    assert settings.database_url == "sqlite:////srv/state/shutterless.db"
    assert settings.objects_url == "/srv/state/objects"
    elsewhere = {"DATABASE_URL": "postgresql://me@db/x", "SHUTTERLESS_OBJECTS": "s3://pictures/dev"}
    settings = Settings.from_environment({"SHUTTERLESS_VAR_DIR": "/srv/state"} | elsewhere)
    assert (settings.database_url, settings.objects_url) == ("postgresql://me@db/x", "s3://pictures/dev")


def test_all_that_does_not_fit_is_reported_at_once_with_expected_and_got():
    wrong = {"SHUTTERLESS_PORT": "http", "SHUTTERLESS_MAX_BYTES": "-1", "SHUTTERLESS_CORS_ORIGINS": "https://a.org, *",
             "SHUTTERLESS_MODEL": "../../etc", "SHUTTERLESS_OBJECTS": "gs://bucket", "SHUTTERLESS_THREADS": "2"}
    with pytest.raises(BadSettings) as caught:
        Settings.from_environment(wrong)
    message = str(caught.value)
    assert isinstance(caught.value, Permanent)
    assert "SHUTTERLESS_PORT: expected an integer from 0 to 65535, got 'http'" in message
    assert all(name in message for name in wrong if name != "SHUTTERLESS_THREADS")
    assert "SHUTTERLESS_THREADS" not in message


@pytest.mark.parametrize(("name", "text"), [
    ("DATABASE_URL", "mysql://me:hunter2@db/x"), ("SHUTTERLESS_API_KEYS", "hunter2 with spaces, other")])
def test_a_secret_that_does_not_fit_is_named_but_not_shown(name, text):
    with pytest.raises(BadSettings, match=name) as caught:
        Settings.from_environment({name: text})
    assert "hunter2" not in str(caught.value)


def test_keys_and_the_database_password_stay_out_of_the_repr():
    settings = Settings.from_environment({"SHUTTERLESS_API_KEYS": "key-one, key-two",
                                          "DATABASE_URL": "postgresql://me:hunter2@db/x"})
    assert settings.api_keys == ("key-one", "key-two")
    assert not re.search("key-one|hunter2", repr(settings))


@pytest.mark.parametrize("text", ["sqlite:///:memory:", "sqlite://", "/tmp/file.db"])
def test_a_database_that_would_forget_is_refused(text):
    with pytest.raises(BadSettings, match="DATABASE_URL: expected sqlite:///FILE"):
        Settings.from_environment({"DATABASE_URL": text})


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_not_set(text):
    assert Settings.from_environment(dict.fromkeys(variable_names(), text)) == Settings()


@pytest.mark.parametrize("text", ["0", "1e6", "1.5", "٣", "9" * 13, "_", "1 000"])
def test_integers_are_plain_digits_within_their_range(text):
    with pytest.raises(BadSettings, match="SHUTTERLESS_MAX_SIDE"):
        Settings.from_environment({"SHUTTERLESS_MAX_SIDE": text})


def test_underscores_may_group_digits():
    assert Settings.from_environment({"SHUTTERLESS_MAX_BYTES": "5_000_000"}).max_bytes == 5_000_000


def test_env_example_names_exactly_what_settings_reads_in_the_same_order():
    assert tuple(example_variables()) == variable_names()


def test_every_default_shown_in_env_example_is_the_default():
    assert Settings.from_environment(example_variables()) == Settings()


def test_importing_settings_loads_nothing_but_the_standard_library():
    code = f"import sys; sys.path.insert(0, {str(EXAMPLE.parent)!r}); import shutterless.settings; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in printed.split()}
    assert "shutterless" in loaded
    assert not loaded & {"numpy", "PIL", "onnxruntime", "sqlalchemy", "boto3", "botocore", "pydantic"}


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 2), ("1000 100000", 1), ("max 100000", 10_000), (None, 10_000)])
def test_a_containers_quota_counts_as_cpus(quota, most, tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    if quota:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr("shutterless.settings.CPU_QUOTA", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(10_000), raising=False)
    assert usable_cpus() == most
