import pytest

from onprem.keys import Keys
from shutterless.errors import BadSettings


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A file of keys that is looked at each time."""
    monkeypatch.setattr("onprem.keys.LOOK_S", 0)
    file = tmp_path / "keys"
    file.write_text("# of the first team\nfirst\n\nsecond\n")
    return file


def test_keys_are_rotated_without_a_restart(open_door, watched) -> None:
    client = open_door(api_keys=("fixed",), api_keys_file=watched)

    def opening(*keys: str) -> list[str]:
        return [key for key in keys if client.get("/models", headers={"x-api-key": key}).status_code == 200]

    everyone = ("fixed", "first", "second", "third", "# of the first team", "")
    assert opening(*everyone) == ["fixed", "first", "second"]
    watched.write_text("second\nthird\n")
    assert opening(*everyone) == ["fixed", "second", "third"]
    other = watched.with_name("other")  # as a mounted secret changes: another file under the same name
    other.write_text("third")
    other.replace(watched)
    assert opening(*everyone) == ["fixed", "third"]


@pytest.mark.parametrize("broken", [None, "", "# none\n", "two words\n", "ключ\n"])
def test_a_file_that_breaks_leaves_the_door_as_it_was(watched, broken, caplog) -> None:
    keys = Keys((), watched)
    if broken is None:
        watched.unlink()
    else:
        watched.write_text(broken)
    assert keys.holder(b"first") is not None
    assert keys.holder(b"") is None
    assert keys.holder(b"two words") is None
    assert "stay as they were" in caplog.text
    assert "first" not in caplog.text
    watched.write_text("new")
    assert keys.holder(b"first") is None
    assert keys.holder(b"new") is not None


def test_a_file_without_keys_opens_no_server(start, tmp_path) -> None:
    server = start(SHUTTERLESS_API_KEYS_FILE=tmp_path / "none")
    out, errors = server.process.communicate(timeout=60)
    assert "Listening" not in out
    assert "SHUTTERLESS_API_KEYS_FILE" in errors.splitlines()[-1]
    (tmp_path / "empty").write_text("# none yet\n")
    with pytest.raises(BadSettings, match="one a line"):
        Keys(("fixed",), tmp_path / "empty")


def test_a_holder_s_name_tells_nothing_of_the_key() -> None:
    keys = Keys(("a-key", "another"), None)
    names = {keys.holder(b"a-key"), keys.holder(b"another")}
    assert len(names) == 2
    assert not any(b"key" in name for name in names)
    assert not keys.is_open
    assert Keys((), None).is_open
