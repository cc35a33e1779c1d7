import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from model_export.sign import sign
from shutterless.bundles import read_bundle


@pytest.fixture
def public(tmp_path):
    """A public key's file; private.pem lies beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "private.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tmp_path / "public.pem"


def test_with_a_signing_key_only_signed_bundles_answer(open_door, make_bundle, public, tmp_path, jpeg, caplog):
    models = tmp_path / "models"
    sign(read_bundle(make_bundle(models, name="signed")), public.with_name("private.pem"), ask_password=str)
    make_bundle(models, name="unsigned")
    client = open_door(model="signed", models_dir=models, signing_key=public)
    assert client.post("/predict", content=jpeg("red")).json()["label"] == "red"
    refused = client.post("/predict?model=unsigned", content=jpeg("red"))
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert "cannot be served" in refused.json()["detail"]
    assert "The bundle is not signed: expected model.sig" in caplog.text, "the operator is told"
    assert client.post("/predict?model=signed", content=jpeg("red")).status_code == 200


def test_an_unsigned_bundle_stays_refused_until_it_is_signed(open_door, make_bundle, public, tmp_path, jpeg):
    models = tmp_path / "models"
    private = public.with_name("private.pem")
    sign(read_bundle(make_bundle(models, name="signed")), private, ask_password=str)
    late = make_bundle(models, name="late")
    client = open_door(model="signed", models_dir=models, signing_key=public)
    statuses = [client.post("/predict?model=late", content=jpeg("red")).status_code for _ in range(2)]
    sign(read_bundle(late), private, ask_password=str)
    assert [*statuses, client.post("/predict?model=late", content=jpeg("red")).status_code] == [503, 503, 200]


@pytest.mark.parametrize(("slow_s", "settings", "threads"), [
    (0.0, {"workers": 3}, 3), (0.0, {"workers": 64}, 4), (0.0, {"workers": 1}, 1), (60.0, {"workers": 3}, 1),
    (0.0, {"workers": 3, "threads": 2}, 2), (60.0, {"workers": 3, "threads": 2}, 2)])
def test_only_a_slow_network_gets_several_threads_where_nothing_is_said(open_door, jpeg, monkeypatch, slow_s, settings, threads):
    monkeypatch.setattr("shutterless.shelf.SLOW_S", slow_s)
    client = open_door(**settings)
    assert client.door.shelf.default.threads == threads
    assert client.post("/predict", content=jpeg("blue")).json()["label"] == "blue"
