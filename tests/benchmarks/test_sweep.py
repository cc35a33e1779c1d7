import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.contestants import PEERS, ours_to_tune, peers
from benchmarks.servers import expected_of
from benchmarks.sweep import Kept, Sweep, attempted, best_of, code_of, laid_over, sweep, write
from shutterless.bundles import read_bundle


def trial(batch, rate, alone, **more):
    return {"settings": {"BATCH": batch}, "requests_s": rate, "alone_s": alone, **more}


def test_a_stage_is_laid_over_what_was_best_before():
    stage = [{"BATCH": "1"}, {"BATCH": "8", "WAIT": "2"}]
    assert list(laid_over(stage, {"BATCH": "4", "WAIT": "0"})) == [{"BATCH": "1", "WAIT": "0"}, {"BATCH": "8", "WAIT": "2"}]


class Stopped(Exception):
    pass


@pytest.fixture
def job(models_dir):
    peer = replace(peers()[0], default={"BATCH": "1", "WAIT": "0"}, tuned={},
                   sweep=[[{"BATCH": "1"}, {"BATCH": "8"}, {"BATCH": "16"}], [{"WAIT": "2"}]])
    return Sweep(peer=peer, bundle=read_bundle(models_dir / "colours/1"), pictures=[], seconds=1, finals=2)


def test_a_sweep_that_was_stopped_goes_on_and_measures_nothing_twice(job, tmp_path):
    rates = {"1": 50.0, "8": 100.0, "16": 90.0}
    tried: list[tuple[str, str, bool]] = []

    def attempt(job, settings, expected, alone, most=99):
        if len(tried) == most:
            raise Stopped
        tried.append((settings["BATCH"], settings["WAIT"], alone))
        return {"settings": dict(settings), "requests_s": rates[settings["BATCH"]] + (settings["WAIT"] == "2"), "alone_s": 5.0}

    with pytest.raises(Stopped):
        sweep(job, Kept(tmp_path / "kept", job.conditions()), attempt=partial(attempt, most=3))
    steps: list[int] = []
    trials = sweep(job, Kept(tmp_path / "kept", job.conditions()), step=lambda: steps.append(1), attempt=attempt)
    assert tried == [("1", "0", False), ("8", "0", False), ("16", "0", False), ("8", "2", False),
                     ("8", "2", True), ("8", "0", True), ("8", "2", True), ("8", "0", True)]
    assert len(steps) == len(trials) == job.length() == 8
    assert best_of(trials) == {"BATCH": "8", "WAIT": "2"}
    assert sweep(job, Kept(tmp_path / "kept", job.conditions()), attempt=attempt) == trials
    assert len(tried) == 8


def test_what_was_measured_under_other_conditions_or_half_written_is_not_taken_up(job, tmp_path):
    kept = Kept(tmp_path / "kept", job.conditions())
    kept.add(trial("1", 5.0, 1.0))
    kept.add(trial("8", 6.0, 1.0))
    text = (tmp_path / "kept").read_text()
    (tmp_path / "kept").write_text(text[:-9])
    assert [each["requests_s"] for each in Kept(tmp_path / "kept", job.conditions()).trials] == [5.0]
    assert Kept(tmp_path / "kept", replace(job, seconds=2).conditions()).trials == []


def test_what_was_measured_of_other_code_is_not_taken_up(job, tmp_path, monkeypatch):
    for name in ("shutterless", "onprem", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "door.py").write_text("BATCH = 8\n")
    monkeypatch.setattr("benchmarks.sweep.OUR_CODE", (tmp_path / "shutterless", tmp_path / "onprem"))
    ours = replace(job, peer=replace(ours_to_tune(), sweep=job.peer.sweep))
    Kept(tmp_path / "kept", ours.conditions()).add(trial("1", 5.0, 1.0))
    (tmp_path / "elsewhere/door.py").write_text("BATCH = 16\n")
    assert len(Kept(tmp_path / "kept", ours.conditions()).trials) == 1
    (tmp_path / "onprem/door.py").write_text("BATCH = 16\n")
    assert Kept(tmp_path / "kept", ours.conditions()).trials == []


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A copy of one that can be edited, and of what all peers share."""
    monkeypatch.setattr("benchmarks.sweep.SHARED", Path(shutil.copy(PEERS / "model.py", tmp_path)))
    original = next(peer for peer in peers() if peer.name == "mlserver")
    return replace(original, folder=Path(shutil.copytree(original.folder, tmp_path / "mlserver")))


@pytest.mark.parametrize("name", ["mlserver/server.py", "mlserver/settings.json", "mlserver/requirements.txt", "model.py"])
def test_what_was_measured_of_a_peer_s_other_files_is_not_taken_up(job, peer, tmp_path, name):
    theirs = replace(job, peer=peer)
    Kept(tmp_path / "kept", theirs.conditions()).add(trial("1", 5.0, 1.0))
    with (tmp_path / name).open("a") as file:
        file.write("\n")
    assert Kept(tmp_path / "kept", theirs.conditions()).trials == []


def test_a_peer_s_command_is_its_code_and_what_was_found_best_is_not(peer):
    before = code_of(peer)
    write(peer, "fp32", [trial("8", 100.0, 30.0, final=1)], {"seconds": 2})
    (peer.folder / "README.md").write_text("# MLServer, explained better\n")
    assert code_of(peer) == before
    config = peer.folder / "peer.json"
    config.write_text(config.read_text().replace('"start", "."', '"start", "--quick", "."'))
    assert code_of(peer) != before


def test_a_trial_starts_our_server_with_what_is_fixed_in_its_code(models_dir, pictures):
    peer = ours_to_tune()
    bundle = read_bundle(models_dir / "colours/1")
    job = Sweep(peer=peer, bundle=bundle, pictures=pictures, seconds=0.3, finals=1)
    found = attempted(job, peer.default, expected_of(bundle, pictures[:2]), True)
    assert found["requests_s"] > 0
    assert found["alone_s"] > 0
    assert found["errors"] == 0
    refused = attempted(job, {**peer.default, "OURS_BATCH": "many"}, [], False)
    assert refused["requests_s"] == 0.0
    assert "ValueError" in refused["problem"]


def test_the_median_of_the_finals_decides_and_not_a_lucky_trial():
    trials = [trial("1", 900.0, 5.0), *(trial("1", rate, 5.0, final=i + 1) for i, rate in enumerate((80.0, 300.0, 90.0))),
              *(trial("8", rate, 5.0, final=i + 1) for i, rate in enumerate((100.0, 101.0, 99.0)))]
    assert best_of(trials) == {"BATCH": "8"}


def test_of_those_that_are_alike_the_one_that_is_faster_alone_wins():
    assert best_of([trial("1", 98.0, 50.0, final=1), trial("8", 100.0, 30.0, final=1)]) == {"BATCH": "1"}
    assert best_of([trial("1", 90.0, 50.0, final=1), trial("8", 100.0, 30.0, final=1)]) == {"BATCH": "8"}


def test_what_was_tried_and_what_was_best_is_written_and_another_precision_stays(tmp_path):
    shutil.copy(peers()[0].folder / "peer.json", tmp_path)
    peer = replace(peers()[0], folder=tmp_path)
    before = json.loads((tmp_path / "peer.json").read_text())
    for precision, batch in (("fp32", "4"), ("int8", "16"), ("fp32", "8")):
        write(peer, precision, [trial(batch, 100.0, 30.0, final=1)], {"seconds": 2})
    after = json.loads((tmp_path / "peer.json").read_text())
    assert {name: after["tuned"][name] for name in ("fp32", "int8")} == {"fp32": {"BATCH": "8"}, "int8": {"BATCH": "16"}}
    assert {**after, "tuned": {}} == {**before, "tuned": {}}
    tried = json.loads((tmp_path / "sweep.json").read_text())
    assert {name: [each["settings"]["BATCH"] for each in found["trials"]] for name, found in tried.items()} == \
        {"fp32": ["8"], "int8": ["16"]}
