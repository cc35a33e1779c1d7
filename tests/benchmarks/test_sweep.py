import json
import shutil
from dataclasses import replace

from benchmarks.contestants import peers
from benchmarks.sweep import best_of, combinations, write


def trial(batch, rate, alone, **more):
    return {"settings": {"BATCH": batch}, "requests_s": rate, "alone_s": alone, **more}


def test_a_stage_is_every_combination_over_what_was_best_before():
    stage = {"BATCH": ["1", "8"], "WAIT": ["0", "2"]}
    assert list(combinations(stage, {"BATCH": "4", "THREADS": "2"})) == [
        {"BATCH": batch, "WAIT": wait, "THREADS": "2"} for batch in ("1", "8") for wait in ("0", "2")]


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
