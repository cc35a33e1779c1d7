import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from benchmarks.contestants import OURS, PEERS, ask, check_answers, environment, ours_to_tune, peers, running
from benchmarks.peers.model import Model
from benchmarks.servers import Plan, draw, expected_of, one_round, summary, table, undisturbed, verdict
from shutterless.bundles import read_bundle
from shutterless.classifier import Classifier

CEILING = {"batch": 16, "requests_s": 400.0, "run_cpu_ms": 2.0, "decode_cpu_ms": 0.25}


def row(server, number, rate, clients=16, **more):
    return {"round": number, "precision": "int8", "server": server, "title": server.title(), "clients": clients, "n": 10,
            "requests_s": rate, "errors": {}, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 2.5, "ready_s": 1.0, "peak_mb": 100.0,
            "cpu_ms": {"server": 4.0, "client": 0.1}} | more


@pytest.fixture
def rounds():
    """The machine was half as fast in the second round; the peer "wide" is the best one of both rounds."""
    found = [row("ours", 0, 200.0), row("wide", 0, 100.0), row("slow", 0, 50.0), row("ours", 1, 90.0), row("wide", 1, 50.0),
             row("slow", 1, 55.0, errors={"503": 2}), row("ours", 2, 190.0), row("wide", 2, 100.0), row("slow", 2, 40.0)]
    return [*found, *({"round": i, "precision": "int8", "server": "ceiling", **CEILING} for i in range(3))]


def test_ratios_are_to_the_best_peer_of_the_same_round(rounds):
    found = summary(rounds, cpus=2)["int8"]
    by_name = {each["server"]: each for each in found["servers"]}
    assert found["best_peer"] == {"16": "wide"}
    assert by_name["ours"]["requests_s"] == 190.0
    assert by_name["ours"]["ratio"] == 1.9
    assert by_name["wide"]["ratio"] == 1.0
    assert by_name["ours"]["of_ceiling"] == 0.475
    assert by_name["slow"]["errors"] == 2


def test_all_cpu_time_of_an_answer_is_accounted_for(rounds):
    parts = summary(rounds, cpus=2)["int8"]["split"]["16"]
    everything = parts.pop("everything")
    assert everything == pytest.approx(2 * 1000 / 190, abs=0.001)
    assert sum(parts.values()) == pytest.approx(everything, abs=0.01)
    assert parts == pytest.approx({"run": 2.0, "decode": 0.25, "other": 1.75, "client": 0.1, "idle": everything - 4.1}, abs=0.01)


def test_goals_stand_beside_what_was_measured(rounds):
    (line,) = verdict("int8", summary(rounds, cpus=2)["int8"])
    assert line.startswith("goal at 16 clients: 1.6x the best peer (wide); measured 1.90x: reached; p99 is 2.5x p50")
    slower = [each | {"requests_s": each["requests_s"] / 2} if each["server"] == "ours" else each for each in rounds]
    assert "measured 0.95x: missed" in next(verdict("int8", summary(slower, cpus=2)["int8"]))


def test_the_table_and_the_plot_show_every_server(rounds, tmp_path):
    report = {"machine": {"cpu": "A CPU", "cpus": 2, "load_1m": 0.1}, "pictures": "drawn", "cpus": 2, "untuned": [],
              "plan": {"rounds": 3, "seconds": 3.0}, "results": summary(rounds, cpus=2)}
    text = "\n".join(table(report))
    assert "worth little" not in text
    assert "Not tuned" not in text
    doubtful = report | {"machine": report["machine"] | {"load_1m": 3.0}, "untuned": ["Wide at int8"]}
    assert [line.partition(":")[0] for line in list(table(doubtful))[-2:]] == [
        "Not tuned", "The machine was busy before it began (load 3.0)"]
    assert re.search(r"Ours +16 +190\.0 +1\.90x +48%", text)
    assert all(title in text for title in ("Wide", "Slow"))
    draw(report, tmp_path / "plots/servers.svg")
    assert "session.run alone" in (tmp_path / "plots/servers.svg").read_text()


def test_a_round_holds_our_server_and_the_ceiling_on_the_same_bundle(models_dir, pictures):
    plan = Plan(clients=(1, 2), seconds=0.3, warm_up_s=0.1, rounds=1)
    rows = list(one_round(0, read_bundle(models_dir / "colours/1"), [OURS], pictures[:5], plan, step=lambda _: None))
    assert [(each["server"], each.get("clients")) for each in rows] == [("ours", 1), ("ours", 2), ("ceiling", None)]
    assert all(each["requests_s"] > 0 for each in rows)
    assert rows[-1]["run_cpu_ms"] > 0
    found = summary(rows, cpus=2)["fp32"]
    assert found["best_peer"] == {}
    assert list(verdict("fp32", found)) == []


def test_what_was_measured_while_the_cpus_were_taken_away_is_measured_again():
    rows = iter([{"n": 1, "stolen": 0.4}, {"n": 2, "stolen": 0.06}, {"n": 3, "stolen": 0.02}])
    assert undisturbed(lambda: next(rows))["n"] == 3
    assert undisturbed(lambda: {"n": 4})["n"] == 4, "this system does not tell"
    rows = iter([{"n": n, "stolen": stolen} for n, stolen in enumerate((0.4, 0.1, 0.3, 0.2, 0.0))])
    assert undisturbed(lambda: next(rows))["n"] == 1, "it does not wait for ever"


def test_servers_that_answer_otherwise_than_our_core_are_not_timed(ours, models_dir, pictures):
    expected = expected_of(read_bundle(models_dir / "colours/1"), pictures)
    answers = [ask(ours.target, picture) for picture in pictures]
    check_answers("Ours", answers, expected)
    with pytest.raises(SystemExit, match="Ours: expected the answers of our core, got 1 others of 50; the first is picture 3"):
        check_answers("Ours", [*answers[:3], answers[3] | {"label": "nonsense"}, *answers[4:]], expected)
    less_sure = [*answers[:9], answers[9] | {"confidence": answers[9]["confidence"] - 0.001}, *answers[10:]]
    with pytest.raises(SystemExit, match="got 1 others of 50; the first is picture 9"):
        check_answers("Ours", less_sure, expected)


def test_a_server_and_its_children_are_ended(models_dir, pictures, tmp_path):
    child = "import time; time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); " + OURS.command[-1]
    nested = replace(OURS, name="nested", command=(sys.executable, "-c", parent))
    settings = {"SHUTTERLESS_PORT": "{port}", "MODEL_URI": str(models_dir / "colours/1"), "SHUTTERLESS_VAR_DIR": str(tmp_path)}
    with running(nested, models_dir / "colours/1", settings, pictures[0]) as server:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(family) == 2
    psutil.wait_procs(family, timeout=10)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_a_server_that_does_not_start_is_told_with_its_log(models_dir, pictures):
    broken = replace(OURS, name="broken", title="Broken", command=(sys.executable, "-c", "raise SystemExit('no such model')"))
    with (pytest.raises(SystemExit, match=r"Expected Broken to answer within \d+ s, got: [^\n]*\nno such model"),
          running(broken, models_dir / "colours/1", {}, pictures[0])):
        pass


def test_a_server_sees_none_of_the_caller_s_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("SHUTTERLESS_API_KEYS", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = environment(peers()[0], tmp_path / "bundle", tmp_path)
    assert not {"SHUTTERLESS_API_KEYS", "OMP_NUM_THREADS", "MODEL_URI"} & set(found)
    assert found["PEER_BUNDLE"] == str(tmp_path / "bundle")
    assert found["PATH"].split(os.pathsep)[0] == str(peers()[0].python.parent)


# The peers' folders.

def test_there_are_four_peers():
    assert [peer.name for peer in peers()] == ["bentoml", "fastapi_ort", "litserve", "mlserver"]


@pytest.mark.parametrize("peer", [*peers(), ours_to_tune()], ids=lambda peer: peer.name)
def test_a_peer_sweeps_and_tunes_settings_that_it_has_and_explains(peer):
    known = set(peer.default)
    assert all(set(settings) <= known for stage in peer.sweep for settings in stage)
    assert set(peer.tuned) <= {"fp32", "int8"}
    assert all(set(settings) == known for settings in peer.tuned.values())
    explained = (peer.folder / "README.md").read_text()
    assert [name for stage in peer.sweep for settings in stage for name in settings
            if name not in explained and name != "PEER_PATH"] == []


@pytest.mark.parametrize("peer", [*peers(), ours_to_tune()], ids=lambda peer: peer.name)
def test_a_peer_s_tuned_settings_are_the_best_of_its_sweep(peer):
    from benchmarks.sweep import best_of

    recorded = json.loads((peer.folder / "sweep.json").read_text()) if (peer.folder / "sweep.json").exists() else {}
    assert set(recorded) == set(peer.tuned)
    for precision, settings in peer.tuned.items():
        assert best_of(recorded[precision]["trials"]) == settings


@pytest.mark.parametrize("peer", peers(), ids=lambda peer: peer.name)
def test_a_peer_was_swept_as_it_is(peer):
    from benchmarks.sweep import code_of

    recorded = json.loads((peer.folder / "sweep.json").read_text())
    assert {found["code"] for found in recorded.values()} == {code_of(peer)}, f"python -m benchmarks.sweep --only {peer.name}"


@pytest.mark.parametrize("lock", sorted(PEERS.glob("*/requirements.txt")), ids=lambda lock: lock.parent.name)
def test_a_peer_s_lock_pins_all_by_hash_names_no_address_and_runs_our_onnxruntime(lock):
    text = lock.read_text()
    assert "://" not in text
    pins = [entry for entry in re.split(r"\n(?=[a-z0-9])", text) if "==" in entry]
    assert all("--hash=sha256:" in entry for entry in pins)
    ours = (Path(__file__).parents[2] / "requirements/onprem.txt").read_text()
    for package in ("onnxruntime", "pillow"):
        assert re.findall(rf"^{package}==\S+", text, re.MULTILINE) == re.findall(rf"^{package}==\S+", ours, re.MULTILINE)
    asked = (lock.parent / "requirements.in").read_text().split()
    assert [name for name in asked if not re.search(rf"^{name.split('==')[0]}==", text, re.MULTILINE)] == []


def test_what_peers_do_with_a_picture_is_what_our_core_does(models_dir, make_bundle, tmp_path, encode, draw):
    folder = make_bundle(tmp_path, temperature=1.7, ood_threshold=11.0)
    theirs, ours = Model(folder, 1), Classifier(read_bundle(folder))
    for seed in range(4):
        picture = encode(draw((64, 48), seed), "JPEG")
        want, got = ours.predict(picture).to_json_dict(), theirs.predict([picture])[0]
        assert (theirs.pixels(picture) == ours.pixels(picture)).all()
        assert [each["index"] for each in got["top"]] == [each["index"] for each in want["top"]]
        assert got["confidence"] == pytest.approx(want["confidence"], abs=1e-5)
        assert {name: got[name] for name in ("pred_index", "label", "in_distribution")} == \
            {name: want[name] for name in ("pred_index", "label", "in_distribution")}
    assert theirs.predict([Image.new("RGB", (9, 9), "red")])[0]["label"] == "red"
