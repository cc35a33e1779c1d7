"""The Helm chart, linted and rendered by Helm's own library, and held to Kubernetes' schemas."""

import base64
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.needs("helm")

CHART = Path(__file__).parents[2] / "deploy/helm/shutterless"
KUBERNETES = "1.30"
APART: dict[str, Any] = {"database": {"secret": "db"}, "objects": "s3://bucket/pictures"}
IMAGE = {"tag": "0a1b2c"}
FULL: dict[str, Any] = APART | {
    "autoscaling": {"enabled": True}, "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a": "b"}},
    "environment": {"SHUTTERLESS_MAX_WAITING": 128}, "serviceAccount": {"annotations": {"role": "r"}},
    "nodeSelector": {"kind": "cpu"}, "tolerations": [{"key": "k", "operator": "Exists"}],
    "image": {"pullSecrets": [{"name": "p"}]}}
SETTINGS = {"one server": {}, "three servers": APART | {"replicas": 3}, "everything": FULL,
            "a volume of one's own": {"volume": {"existingClaim": "mine"}}}


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Kind -> object, in the namespace `pictures`."""
    from helm_python import Chart

    files = Chart.load(CHART).render(with_image(values), name="land", namespace="pictures")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return {document["kind"]: document for text in texts for document in yaml.safe_load_all(text) if document}


def notes(values: dict[str, Any]) -> str:
    """What Helm says after an installation."""
    from helm_python import Chart

    return Chart.load(CHART).render(with_image(values), name="land", namespace="pictures")["shutterless/templates/NOTES.txt"]


@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
def test_helm_and_kubernetes_find_nothing_to_correct(values):
    import kubernetes_validate
    from helm_python import lint

    report = lint(CHART, with_image(values), strict=True, kube_version=f"v{KUBERNETES}.0")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    for kind, document in rendered(values).items():
        assert document["metadata"]["namespace"] == "pictures"
        if kind not in ("ServiceMonitor", "PrometheusRule"):  # the operator's, not Kubernetes'
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_one_server_has_a_volume_that_outlives_the_chart_and_is_never_shared():
    made = rendered({})
    assert set(made) == {"Deployment", "Service", "ServiceAccount", "PersistentVolumeClaim"}
    assert made["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert made["PersistentVolumeClaim"]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "DATABASE_URL" not in environment(made["Deployment"])


@pytest.mark.parametrize("values", [{"replicas": 2}, {"autoscaling": {"enabled": True}},
                                    {"replicas": 2, "database": {"secret": "db"}}, {"replicas": 2, "objects": "s3://b"}])
def test_more_servers_on_one_volume_are_refused_with_the_reason(values):
    from helm_python import HelmRenderError

    with pytest.raises(HelmRenderError, match="SQLite is one file on one volume"):
        rendered(values)


def test_several_servers_share_a_database_and_a_bucket_and_no_volume():
    made = rendered(FULL)
    assert set(made) == {"Deployment", "Service", "ServiceAccount", "Ingress", "HorizontalPodAutoscaler", "PodDisruptionBudget",
                         "ServiceMonitor", "PrometheusRule"}
    assert "replicas" not in made["Deployment"]["spec"], "the autoscaler sets them"
    assert environment(made["Deployment"])["DATABASE_URL"] == {"secretKeyRef": {"name": "db", "key": "url"}}
    assert environment(made["Deployment"])["SHUTTERLESS_OBJECTS"] == "s3://bucket/pictures"
    assert environment(made["Deployment"])["SHUTTERLESS_FORM_SECRET"] == {
        "secretKeyRef": {"name": "shutterless-keys", "key": "form-secret"}}, "each takes the forms of the others"


@pytest.fixture
def cluster() -> Iterator[Callable[..., dict[str, str]]]:
    """`cluster(values, keys={"api-keys": "k"})`: the chart as it is rendered where the secret shutterless-keys holds these."""
    secret: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shutterless-keys"}}
    answers = {"/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get"]}]},
        "/api/v1/namespaces/pictures/secrets/shutterless-keys": secret}

    class ApiServer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    thread = Thread(target=server.serve_forever)
    thread.start()

    def render(values: dict[str, Any], keys: dict[str, str]) -> dict[str, str]:
        from helm_python import Chart, Config

        secret["data"] = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
        with Config(kube_apiserver=f"http://127.0.0.1:{server.server_port}", namespace="pictures") as config:
            return config.render(Chart.load(CHART), with_image(values), name="land", namespace="pictures")

    yield render
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_secret_without_what_signs_forms_is_refused_before_pods_wait_for_it(cluster):
    from helm_python import HelmRenderError

    for keys in ({"api-keys": "k"}, {"api-keys": "k", "form-secret": "short"}, {}):
        with pytest.raises(HelmRenderError, match="expected form-secret, of 32 characters or more, in the secret shutterless-keys"
                           ) as refused:
            cluster(APART, keys)
        assert "kubectl -n pictures patch secret shutterless-keys --type merge" in str(refused.value)
    assert "SHUTTERLESS_FORM_SECRET" in "".join(cluster(APART, {"api-keys": "k", "form-secret": 48 * "a"}).values())
    assert "SHUTTERLESS_FORM_SECRET" not in "".join(cluster({}, {"api-keys": "k"}).values()), "one server makes its own"


def test_the_notes_say_what_pods_wait_for_and_where_the_api_is():
    assert 'patch secret shutterless-keys --type merge -p "{\\"stringData\\":{\\"form-secret\\":\\"$(openssl' in notes(FULL)
    assert "https://pictures.example.org" in notes(FULL)
    assert "form-secret" not in notes({}), "one server makes its own"
    assert "port-forward service/land 8000:80" in notes({})


@pytest.mark.parametrize(("tls", "scheme"), [("tls", "https"), ("", "http")])
def test_forms_lead_to_the_ingress(tls, scheme):
    made = rendered({"ingress": {"enabled": True, "host": "a.example.org", "tlsSecret": tls}})
    assert environment(made["Deployment"])["SHUTTERLESS_PUBLIC_URL"] == f"{scheme}://a.example.org"
    assert "SHUTTERLESS_PUBLIC_URL" not in environment(rendered({})["Deployment"])


def test_every_setting_that_the_chart_makes_is_one_of_ours_and_no_secret_is_written_out():
    from shutterless.settings import variable_names

    known = environment(rendered(FULL)["Deployment"])
    assert set(known) <= set(variable_names())
    for name in ("SHUTTERLESS_METRICS_KEY", "SHUTTERLESS_FORM_SECRET", "DATABASE_URL"):
        assert "secretKeyRef" in known[name]


def test_the_keys_are_a_file_so_that_they_change_without_a_restart():
    pod = rendered({})["Deployment"]["spec"]["template"]["spec"]
    (keys,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "keys")
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "keys")
    assert keys["secretName"] == "shutterless-keys"
    assert "subPath" not in mount, "Kubernetes does not renew it"
    (item,) = keys["items"]
    assert environment(rendered({})["Deployment"])["SHUTTERLESS_API_KEYS_FILE"] == f"{mount['mountPath']}/{item['path']}"


def test_an_image_that_nobody_named_is_asked_for():
    from helm_python import HelmRenderError

    with pytest.raises(HelmRenderError, match=r"image.tag: expected the tag"):
        rendered({"image": {"tag": ""}})


def test_the_rules_are_those_that_are_tried():
    rules = yaml.safe_load((CHART.parents[2] / "docker/prometheus/rules.yml").read_text())
    assert rendered(FULL)["PrometheusRule"]["spec"] == rules


def test_a_pod_may_do_nothing_but_its_work():
    pod = rendered({})["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"], "a Service named shutterless would set SHUTTERLESS_PORT"
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {
        "/var/lib/shutterless", "/tmp"}


def test_labels_lead_from_monitor_and_service_to_the_pods():
    made = rendered(FULL)
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (made["Service"]["spec"]["selector"], made["Deployment"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    assert made["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= made["Service"]["metadata"]["labels"].items()


def with_image(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"image": IMAGE | values.get("image", {})}


def environment(deployment: dict[str, Any]) -> dict[str, Any]:
    """Name -> value, or where it comes from."""
    listed = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in listed}
