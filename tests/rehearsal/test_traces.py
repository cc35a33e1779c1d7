"""What a run leaves is found again and taken away, however it ended."""

import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import traces
from rehearsal.docker_client import docker
from rehearsal.emulator_process import INSTANCE, ROOT, Place
from rehearsal.processes import marked
from rehearsal.traces import Traces, alone, read_traces
from shutterless.errors import BadSettings

NOWHERE = Place("127.0.0.1", 1)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rehearsal's folder of our own."""
    for name, ours in (("STATE", tmp_path), ("RUN", tmp_path / "run"), ("NOTE", tmp_path / "run.json"),
                       ("PUSHED", re.compile("localhost:2/"))):
        monkeypatch.setattr(traces, name, ours)
    return tmp_path


def test_what_was_written_down_is_read_again():
    assert read_traces() is None
    written = Traces(NOWHERE, ["an-image:1"], is_kept=True)
    written.write()
    assert read_traces() == written


@pytest.mark.parametrize("note", ["", "{", "[]", '{"images": []}', '{"place": 3}'])
def test_a_note_that_cannot_be_read_is_told_with_what_to_do(state: Path, note: str):
    (state / "run.json").write_text(note)
    with pytest.raises(BadSettings, match=r"remove them and this file"):
        read_traces()


def test_two_rehearsals_of_one_folder_do_not_run_at_once(state: Path):
    with alone(state), pytest.raises(BadSettings, match="Another rehearsal"), alone(state):
        pass
    with alone(state):
        pass


def test_a_rehearsal_that_was_killed_keeps_no_other_out(state: Path):
    program = f"from pathlib import Path; from rehearsal.traces import alone; import signal\n" \
              f"with alone(Path({str(state)!r})): print('on', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(BadSettings), alone(state):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with alone(state):
        pass


@pytest.fixture
def container() -> Iterator[Place]:
    """The place of an emulator of which one container is left."""
    place, image = Place("127.0.0.1", 2), f"localhost:2/test-{uuid.uuid4().hex[:8]}:1"
    subprocess.run("tar c --files-from /dev/null | docker import - shutterless-test-empty:1", shell=True, check=True,
                   capture_output=True)
    docker("create", "--label", place.label, "shutterless-test-empty:1", "none")
    docker("tag", "shutterless-test-empty:1", image)
    yield place
    subprocess.run(["docker", "image", "rm", image, "shutterless-test-empty:1"], capture_output=True, check=False)


@pytest.mark.needs("docker")
def test_processes_containers_images_and_files_are_taken_away_and_nobody_else_s(state: Path, container: Place):
    of_the_run = Traces(container)
    of_the_run.write()
    (state / "run").mkdir()
    (state / "run/file").write_text("x")
    with subprocess.Popen(["sleep", "60"], env=marked(state / "run", {})), subprocess.Popen(["sleep", "60"]) as another:
        assert sorted(word.split()[0].partition("/")[0] for word in of_the_run.left())[-3:] == ["container", "image", "process"]
        of_the_run.take_away()
        assert of_the_run.left() == []
        assert another.poll() is None
        another.kill()
    assert read_traces() is None
    assert "shutterless-test-empty:1" in traces.image_names()
    of_the_run.take_away()


def test_containers_carry_the_port_of_their_emulator():
    assert NOWHERE.label == f"ministack.instance={INSTANCE}:1"
