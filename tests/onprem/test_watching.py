"""A real server under load, scraped by a real Prometheus with our rules, which tells a real Alertmanager: every query of the
dashboard and every rule is asked there."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.onprem.conftest import Process

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.timeout(300)]

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/shutterless.json").read_text())
RULES = [rule for group in yaml.safe_load((DOCKER / "prometheus/rules.yml").read_text())["groups"] for rule in group["rules"]]
LOAD_S, CLIENTS = 12.0, 4
PROMETHEUS_S = 60.0  # until it is ready, has scraped, or has told
API_KEY, METRICS_KEY = "an-api-key", "the-scraper-s-key"


def panels() -> Iterator[tuple[str, str]]:
    """(title, query) of every panel."""
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


class Watched:
    """Server, Prometheus, Alertmanager and a receiver of its messages (`told`), all on this machine."""

    def __init__(self, models_dir: Path, folder: Path) -> None:
        self.told: list[dict[str, Any]] = []
        self._receiver = _receiver(self.told)
        self._programs: list[subprocess.Popen[bytes]] = []
        self.client = httpx.Client(timeout=30)
        self.server = Process(SHUTTERLESS_MODEL="colours", SHUTTERLESS_MODELS_DIR=models_dir, SHUTTERLESS_VAR_DIR=folder / "var",
                              SHUTTERLESS_PORT=0, SHUTTERLESS_API_KEYS=API_KEY, SHUTTERLESS_METRICS_KEY=METRICS_KEY)
        try:
            self.url = self.server.url()
            self._start(folder)
        except BaseException:  # raised again: no program is left behind
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        alertmanager, prometheus = _free_address(), _free_address()
        (folder / "metrics_key").write_text(METRICS_KEY)
        (folder / "rules.yml").write_text(_hasty((DOCKER / "prometheus/rules.yml").read_text()))
        (folder / "alertmanager.yml").write_text(_with_webhooks(self._receiver.server_port))
        config = (DOCKER / "prometheus/prometheus.yml").read_text()
        for shipped, here in {"/run/secrets/metrics_key": str(folder / "metrics_key"), "server:8000": self.url[7:], "15s": "1s",
                              "localhost:9090": prometheus, "alertmanager:9093": alertmanager}.items():
            assert shipped in config
            config = config.replace(shipped, here)
        (folder / "prometheus.yml").write_text(config)
        self._run("prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alerts",
                  f"--web.listen-address={alertmanager}", "--cluster.listen-address=", log=folder / "alertmanager.log")
        self._run("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                  f"--web.listen-address={prometheus}", log=folder / "prometheus.log")
        self.client.base_url = httpx.URL(f"http://{prometheus}")
        await_true(self._ready)

    def _run(self, *command: str, log: Path) -> None:
        with log.open("wb") as output:
            self._programs.append(subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "GOMAXPROCS": "1"}))

    def _ready(self) -> bool:
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        answer = self.client.get("/api/v1/query", params={"query": query})
        assert answer.status_code == 200, answer.text
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def close(self) -> None:
        self.client.close()
        for program in self._programs:
            program.terminate()
        for program in self._programs:
            program.wait(30)
        self.server.kill()
        self._receiver.shutdown()
        self._receiver.server_close()


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _hasty(rules: str) -> str:
    """The same rules, which need not hold for minutes."""
    return re.sub(r"^( +)for: \w+$", r"\1for: 1s", rules, flags=re.MULTILINE)


def _with_webhooks(port: int) -> str:
    """The routing as it ships, and at its ends somewhere to tell."""
    config = yaml.safe_load((DOCKER / "alertmanager/alertmanager.yml").read_text())
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"http://127.0.0.1:{port}/{receiver['name']}"}]
    for route in (config["route"], *config["route"]["routes"]):
        route["group_wait"] = route["group_interval"] = "1s"
    return yaml.safe_dump(config)


def _receiver(told: list[dict[str, Any]]) -> HTTPServer:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    return receiver


def await_true(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PROMETHEUS_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.2)


def load(url: str, jpeg: Callable[..., bytes]) -> None:
    """Good and bad requests of every kind, from several clients at once."""
    def ask(n: int) -> None:
        with httpx.Client(base_url=url, headers={"x-api-key": API_KEY}, timeout=30) as client:
            deadline_s = time.monotonic() + LOAD_S
            while time.monotonic() < deadline_s:
                client.post("/predict", content=jpeg(("red", "green", "blue")[n % 3]))
                client.post("/predict", content=b"not a picture")
                client.post("/upload-image", content=jpeg() if n % 2 else jpeg()[:300])
                client.get("/results")
                client.get("/nope")
                time.sleep(0.05)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(CLIENTS)))


@pytest.fixture(scope="module")
def watched(models_dir: Path, jpeg: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """After a while of load."""
    watched = Watched(models_dir, tmp_path_factory.mktemp("watched"))
    try:
        load(watched.url, jpeg)
        await_true(lambda: watched.ask("model:shutterless_prediction_confidence_ratio:mean1h"))
        yield watched
    finally:
        watched.close()


def test_every_target_is_up(watched) -> None:
    states = {job: health for target in watched.client.get("/api/v1/targets").json()["data"]["activeTargets"]
              for job, health in [(target["labels"]["job"], target["health"])]}
    assert states == {"shutterless": "up", "prometheus": "up", "alertmanager": "up"}


@pytest.mark.parametrize(("title", "query"), [*panels()])
def test_every_query_of_the_dashboard_returns_data(watched, title: str, query: str) -> None:
    asked = query.replace("$instance", ".*").replace("$__rate_interval", "1m")  # as Grafana says for a scrape every 15 s
    assert "$" not in asked
    values = [float(series["value"][1]) for series in watched.ask(asked)]
    assert [value for value in values if math.isfinite(value)], title


def test_the_dashboard_offers_the_server_and_marks_alerts(watched) -> None:
    (metric, label), = (re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
                        for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query")
    offered = watched.client.get(f"/api/v1/label/{label}/values", params={"match[]": metric}).json()["data"]
    assert offered == [watched.url[7:]]
    (marks,) = DASHBOARD["annotations"]["list"]
    await_true(lambda: watched.ask(marks["expr"]))  # the load holds broken pictures


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_stands_on_series_that_are_there(watched, rule: dict[str, Any]) -> None:
    """What an alert compares is there to be compared: with `bool`, a comparison answers 0 instead of nothing. Nothing is an
    hour old here."""
    query = rule["expr"].replace(" offset 1h", "")
    if "alert" in rule:
        query = re.sub(r" (>|<|==) (?=[\d(])", r" \1 bool ", query)
        assert " bool " in query
    assert watched.ask(query)


def test_no_rule_fails_and_no_alert_of_the_service_is_false(watched) -> None:
    rules = [rule for group in watched.client.get("/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    assert firing <= {"ShutterlessUploadsFail", "ShutterlessConfidenceFell", "ShutterlessQueueGrows", "ShutterlessSlow"}, \
        "the load holds broken pictures, and nothing has to last here; more than that is a false alarm"


def test_the_dashboard_and_the_rules_ask_for_nothing_that_is_not_exposed(watched) -> None:
    text = httpx.get(f"{watched.url}/metrics", headers={"authorization": f"Bearer {METRICS_KEY}"}).text
    exposed = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    known = exposed | {rule["record"] for rule in RULES if "record" in rule} | {"up", "ALERTS", "scrape_duration_seconds"}
    queries = [query for _, query in panels()] + [rule["expr"] for rule in RULES]
    queries += [note["expr"] for note in DASHBOARD["annotations"]["list"]]
    asked = {name for query in queries for name in re.findall(r"\b[a-z]+:\w+:\w+\b|\b(?:shutterless|process|scrape)_\w+\b|\bup\b|"
                                                              r"\bALERTS\b", query)}
    assert asked - known == set()
    ours = {name.removesuffix("_bucket") for name in exposed if name.startswith("shutterless_")}
    shown = {name.removesuffix("_bucket") for name in asked}
    unused = {name for name in ours if not name.endswith(("_sum", "_count"))} - shown
    assert unused <= {"shutterless_bodies_held_limit_bytes"}, "what nobody looks at need not be counted"


def test_a_server_that_dies_is_told_to_whoever_is_on_call(watched) -> None:
    """Last in this file: it kills the server."""
    watched.server.kill()

    def told() -> list[dict[str, Any]]:
        return [message for message in watched.told if message["commonLabels"].get("alertname") == "ShutterlessDown"]

    await_true(told)
    assert told()[0]["receiver"] == "on-call"
    (alert,) = told()[0]["alerts"]
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"] == f"Server {watched.url[7:]} cannot be scraped."
