import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.main import main

FIELDS = {"pred_index", "label", "confidence", "top", "in_distribution", "timings", "model", "cold_start"}


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_picture_gives_a_table_and_exit_code_0(shutterless, pictures):
    done = shutterless("predict", pictures / "red.png")
    assert (done.returncode, done.stderr) == (0, b"")
    head, _, row = done.stdout.decode().strip().splitlines()
    assert head.split() == ["picture", "label", "confidence"]
    assert row.split()[:2] == [str(pictures / "red.png"), "red"]
    assert row.rstrip().endswith("%")


def test_json_is_one_object_a_line_with_file_and_the_fields_of_predict(shutterless, pictures):
    done = shutterless("predict", "--json", pictures / "red.png", pictures / "deep" / "green.jpg")
    assert (done.returncode, done.stderr) == (0, b"")
    red, green = lines(done)
    assert red.keys() == green.keys() == {"file"} | FIELDS
    assert [(a["file"], a["label"]) for a in (red, green)] == [
        (str(pictures / "red.png"), "red"), (str(pictures / "deep" / "green.jpg"), "green")]
    assert red["model"]["name"] == "colours"


def test_top_chooses_how_many_labels_are_given(shutterless, pictures):
    assert len(lines(shutterless("predict", "--json", "--top", "2", pictures / "red.png"))[0]["top"]) == 2
    assert len(lines(shutterless("predict", "--json", pictures / "red.png"))[0]["top"]) == 3  # all that there are
    table = shutterless("predict", "--top", "2", pictures / "red.png").stdout.decode()
    assert "or else" in table
    assert "green 0.00 %" in table
    assert "or else" not in shutterless("predict", pictures / "red.png").stdout.decode()


def test_a_folder_gives_its_pictures_recursively_in_order_and_leaves_out_what_is_none(shutterless, pictures):
    done = shutterless("predict", "--json", pictures)
    assert done.returncode == 0
    assert [(Path(a["file"]).name, a["label"]) for a in lines(done)] == [
        ("blue", "blue"), ("green.jpg", "green"), ("red.png", "red")]


def test_a_dash_reads_one_picture_from_standard_input(shutterless, pictures):
    done = shutterless("predict", "--json", "-", stdin=(pictures / "red.png").read_bytes())
    assert [(a["file"], a["label"]) for a in lines(done)] == [("-", "red")]


def test_pictures_that_cannot_be_read_give_their_reasons_after_all_others_were_answered(shutterless, pictures):
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (pictures / "empty.png").touch()
    done = shutterless("predict", pictures, pictures / "gone.jpg")
    assert done.returncode == 1
    assert all(f" {label} " in done.stdout.decode() for label in ("red", "green", "blue"))
    reasons = done.stderr.decode().splitlines()
    assert [reason.partition(": ")[0] for reason in reasons] == [
        str(pictures / name) for name in ("broken.jpg", "empty.png", "gone.jpg")]
    assert "no file or folder of this name" in reasons[2]


def test_in_json_a_picture_that_cannot_be_read_is_a_problem_in_its_place(shutterless, pictures):
    (pictures / "broken.jpg").write_bytes(b"GIF89a and no more")
    done = shutterless("predict", "--json", pictures / "broken.jpg", pictures / "red.png")
    assert (done.returncode, done.stderr) == (1, b"")
    broken, red = lines(done)
    assert broken.keys() == {"file", "error"}
    assert broken["error"]["status"] == 400
    assert broken["error"].keys() >= {"type", "title", "detail"}
    assert red["label"] == "red"


def test_a_folder_without_pictures_gives_a_sentence(shutterless, tmp_path):
    (tmp_path / "empty").mkdir()
    done = shutterless("predict", tmp_path / "empty")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"no picture in this folder" in done.stderr


def test_no_more_than_the_limit_is_read_of_a_file_that_never_ends(shutterless):
    done = shutterless("predict", "/dev/zero", SHUTTERLESS_MAX_BYTES="1000")
    assert done.returncode == 1
    assert b"at most 1,000 bytes" in done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps file names in UTF-8")
def test_a_file_name_that_is_not_text_is_no_obstacle(shutterless, pictures):
    odd = bytes(pictures) + b"/\xff[red].png"
    (pictures / "red.png").rename(odd.decode(errors="surrogateescape"))
    for arguments in (["predict", pictures], ["predict", "--json", pictures]):
        done = shutterless(*arguments)
        assert done.returncode == 0, done.stderr
        assert b"udcff[red].png" in done.stdout


def test_top_below_one_is_refused_once_for_all_pictures(shutterless, pictures):
    done = shutterless("predict", "--top", "0", pictures)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("shutterless: top: expected 1 or more, got 0")
    assert len(done.stderr.splitlines()) == 1


def test_a_picture_unlike_what_the_model_learned_from_is_marked(shutterless, pictures, make_bundle, tmp_path):
    make_bundle(tmp_path / "strict", ood_threshold=1e6)
    done = shutterless("predict", pictures / "red.png", SHUTTERLESS_MODELS_DIR=str(tmp_path / "strict"))
    assert b"unlike what the model learned from" in done.stdout


def test_the_order_of_answers_is_that_of_the_pictures_however_many_work_at_once(shutterless, pictures):
    many = [pictures / "red.png", pictures / "deep" / "green.jpg"] * 30
    done = shutterless("predict", "--json", *many, SHUTTERLESS_WORKERS="8")
    assert [a["label"] for a in lines(done)] == ["red", "green"] * 30


def test_the_command_itself_keeps_answers_reasons_and_exit_code_apart(start, pictures):
    process = start("predict", pictures / "red.png", "gone.jpg", "-")
    out, err = process.communicate((pictures / "deep" / "blue").read_bytes(), timeout=60)
    assert process.returncode == 1
    assert [row.split()[:2] for row in out.decode().strip().splitlines()[2:]] == [
        [str(pictures / "red.png"), "red"], ["-", "blue"]]
    assert err == b"gone.jpg: There is no file or folder of this name. Check the path.\n"


@pytest.mark.parametrize("taken", [0, 1])
def test_a_reader_that_leaves_early_is_left_in_peace(start, pictures, taken):
    process = start("predict", "--json", *[pictures / "red.png"] * 2000)
    for _ in range(taken):
        assert b'"label": "red"' in process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""


def test_ctrl_c_ends_a_long_run_at_once_with_130(start, pictures):
    process = start("predict", "--json", *[pictures / "red.png"] * 3000)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert len(process.stdout.readlines()) < 2900
    assert (process.wait(60), process.stderr.read()) == (130, b"")


def test_a_background_job_of_a_script_goes_on_when_ctrl_c_is_for_another(start, pictures):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for `&`; the new process inherits it
    process = start("predict", "--json", *[pictures / "red.png"] * 300)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert len(process.stdout.readlines()) == 299
    assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_ctrl_c_ends_the_wait_for_standard_input(environment, monkeypatch, capsys):
    class Keyboard:
        def read(self, n: int) -> bytes:
            assert threading.current_thread() is threading.main_thread(), "Ctrl-C reaches no other thread"
            raise KeyboardInterrupt

    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Keyboard()))
    assert main(["predict", "-"]) == 130
    assert capsys.readouterr() == ("", "")
