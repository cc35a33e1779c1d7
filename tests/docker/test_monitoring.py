"""What Prometheus, Alertmanager and Grafana are given: their own tools find nothing to correct, and every alert is tried."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
TRIALS = Path(__file__).with_name("alerts.yml")
ALERTS = [rule for group in yaml.safe_load((DOCKER / "prometheus/rules.yml").read_text())["groups"] for rule in group["rules"]
          if "alert" in rule]

needs_prometheus = pytest.mark.needs("prometheus")


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_takes_the_configuration_and_the_rules(tmp_path):
    (tmp_path / "metrics_key").write_text("key")
    for name in ("prometheus.yml", "rules.yml"):
        text = (DOCKER / "prometheus" / name).read_text()
        (tmp_path / name).write_text(text.replace("/run/secrets/metrics_key", str(tmp_path / "metrics_key")))
    run("promtool", "check", "rules", "--lint-fatal", tmp_path / "rules.yml")
    run("promtool", "check", "config", tmp_path / "prometheus.yml")


@needs_prometheus
def test_every_alert_fires_where_it_must_and_not_where_it_must_not():
    run("promtool", "test", "rules", TRIALS)


def test_every_alert_has_both_trials():
    names = [trial["name"] for trial in yaml.safe_load(TRIALS.read_text())["tests"]]
    for alert in ALERTS:
        for what in ("fires", "is quiet at"):
            assert any(name.startswith(f"{alert['alert']} {what}") for name in names), (alert["alert"], what)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_what_to_do_and_whom_to_tell(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "remedy"} == set(alert["annotations"])
    assert all(text.endswith((".", "?")) for text in alert["annotations"].values())


@needs_prometheus
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "on-call"), ("warning", "team"), ("unheard-of", "team")])
def test_alertmanager_takes_its_configuration_and_tells_the_right_people(severity, receiver):
    config = DOCKER / "alertmanager/alertmanager.yml"
    run("amtool", "check-config", config)
    assert run("amtool", "config", "routes", "test", f"--config.file={config}", f"severity={severity}").strip() == receiver


def test_the_dashboard_is_where_grafana_looks_and_its_panels_do_not_overlap():
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"] if volume.startswith("."))
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/files.yml").read_text())["providers"]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    dashboard = json.loads((DOCKER / "grafana/dashboards/shutterless.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))) - variables == {"__rate_interval"}
