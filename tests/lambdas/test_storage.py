"""How the functions reach the database on AWS: TLS that is checked, and a new token for each connection."""

import datetime
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lambdas.storage import Storage
from shutterless.errors import BadSettings, Unavailable
from shutterless.settings import Settings

ROOT = Path(__file__).parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "session",
        "AWS_REGION": "eu-central-1"}
SSL_REQUEST = struct.pack(">II", 8, 80877103)
CLEARTEXT_PASSWORD = b"R" + struct.pack(">II", 8, 3)
REFUSAL = b"SFATAL\0VFATAL\0C28000\0Mno entry\0\0"
NO_ENTRY = b"E" + struct.pack(">I", 4 + len(REFUSAL)) + REFUSAL


def certificate(folder: Path, name: str) -> Path:
    """A certificate for `name` that vouches for itself, with its key in one file."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256()))
    file = folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return file


class Gatekeeper:
    """The first minute of a PostgreSQL: TLS, who is there, what is the password; then it lets nobody in.

    https://www.postgresql.org/docs/current/protocol-flow.html
    """

    def __init__(self, certificate: Path) -> None:
        self.heard: list[tuple[str, str]] = []
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                self._meet(plain)
            except (OSError, ssl.SSLError):
                plain.close()

    def _meet(self, plain: socket.socket) -> None:
        plain.settimeout(5)
        if plain.recv(8) != SSL_REQUEST:
            plain.close()
            return
        plain.sendall(b"S")
        with self._tls.wrap_socket(plain, server_side=True) as wire:
            start = wire.recv(4096)[8:].split(b"\0")
            told = dict(zip(start[::2], start[1::2], strict=False))
            if b"user" not in told:  # it does not like the certificate
                return
            wire.sendall(CLEARTEXT_PASSWORD)
            password = wire.recv(65536)[5:].rstrip(b"\0")
            self.heard.append((told[b"user"].decode(), password.decode()))
            wire.sendall(NO_ENTRY)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def gatekeeper(tmp_path):
    gatekeeper = Gatekeeper(certificate(tmp_path, "localhost"))
    yield gatekeeper
    gatekeeper.close()


def open_storage(gatekeeper: Gatekeeper, ca: Path, *, host: str = "localhost", environ: dict[str, str] = KEYS,
                 **settings) -> Storage:
    url = f"postgresql://shutterless_infer@{host}:{gatekeeper.port}/pictures"
    return Storage(Settings(**{"database_url": url, "database_auth": "iam", "database_ca": ca} | settings), environ)


def test_each_connection_shows_a_new_token_made_offline(gatekeeper, tmp_path):
    storage = open_storage(gatekeeper, tmp_path / "localhost.pem")
    for _ in range(2):
        with pytest.raises(Unavailable):
            storage.results.ping()
    assert len(gatekeeper.heard) >= 2
    user, token = gatekeeper.heard[0]
    assert user == "shutterless_infer"
    signed = parse_qs(urlsplit(f"https://{token}").query)
    assert urlsplit(f"https://{token}").netloc == f"localhost:{gatekeeper.port}"
    assert (signed["Action"], signed["DBUser"], signed["X-Amz-Expires"]) == (["connect"], ["shutterless_infer"], ["900"])
    assert "eu-central-1/rds-db" in signed["X-Amz-Credential"][0]
    assert signed["X-Amz-Security-Token"] == ["session"]


def test_a_server_that_nobody_vouches_for_is_shown_no_token(gatekeeper, tmp_path):
    storage = open_storage(gatekeeper, certificate(tmp_path, "other"))
    with pytest.raises(Unavailable):
        storage.results.ping()
    assert gatekeeper.heard == []


def test_a_server_of_another_name_is_shown_no_token(gatekeeper, tmp_path):
    storage = open_storage(gatekeeper, tmp_path / "localhost.pem", host="127.0.0.1")
    with pytest.raises(Unavailable):
        storage.results.ping()
    assert gatekeeper.heard == []


def test_a_password_is_taken_from_the_address(gatekeeper, tmp_path):
    url = f"postgresql://rehearsal:s%40fe@localhost:{gatekeeper.port}/pictures"
    storage = open_storage(gatekeeper, tmp_path / "localhost.pem", database_url=url, database_auth="password")
    with pytest.raises(Unavailable):
        storage.results.ping()
    assert gatekeeper.heard[0] == ("rehearsal", "s@fe")


def test_credentials_that_changed_are_used_for_the_next_connection(gatekeeper, tmp_path):
    environ = dict(KEYS)
    storage = open_storage(gatekeeper, tmp_path / "localhost.pem", environ=environ)
    for session in ("session", "later"):
        environ["AWS_SESSION_TOKEN"] = session
        with pytest.raises(Unavailable):
            storage.results.ping()
        assert f"Security-Token={session}" in gatekeeper.heard[-1][1]


@pytest.mark.parametrize(("settings", "environ"), [
    ({}, {}), ({"database_ca": None}, KEYS), ({"database_url": "postgresql:///pictures"}, KEYS),
    ({"database_ca": Path("none.pem")}, KEYS)])
def test_iam_without_all_that_it_needs_is_the_operator_s(gatekeeper, tmp_path, settings, environ):
    storage = open_storage(gatekeeper, tmp_path / "localhost.pem", environ=environ, **settings)
    with pytest.raises(BadSettings, match=r"expected .*, got "):
        storage.results.ping()


SNAPSHOT = """
import os, random, time
import psycopg
from snapshot_restore_py import get_after_restore, get_before_snapshot
from lambdas.storage import open_storage
from shutterless.settings import Settings

def run(hooks):
    for action, arguments, named in hooks: action(*arguments, **named)

def sessions(expected):
    found = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'shutterless_query' AND application_name = 'snapshot'"
    with psycopg.connect(os.environ["OWNER_URL"], autocommit=True) as connection:
        for _ in range(100):  # the server notices an end a moment later
            count = connection.execute(found).fetchone()[0]
            if count == expected:
                break
            time.sleep(0.05)
    return count

storage = open_storage(Settings.from_environment(os.environ))
storage.results.ping()
random.seed(1)
expected, seen = random.Random(1).random(), [sessions(1)]
run(get_before_snapshot())
seen.append(sessions(0))
run(get_after_restore())
storage.results.ping()
print(*seen, sessions(1), random.random() != expected)
"""


@pytest.mark.needs("postgres")
def test_a_snapshot_holds_no_connection_and_each_copy_makes_its_own(settings_of, migrated_database):
    url = settings_of("query").database_url
    url += ("&" if "?" in url else "?") + "application_name=snapshot"
    done = subprocess.run([sys.executable, "-c", SNAPSHOT], cwd=ROOT, capture_output=True, text=True, check=False, env={
        "PYTHONPATH": str(ROOT), "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start", "DATABASE_URL": url,
        "OWNER_URL": migrated_database})
    assert done.stdout.split() == ["1", "0", "1", "True"], done.stderr


def test_the_bucket_is_one_without_a_prefix():
    assert Storage(Settings(objects_url="s3://pictures"), {}).bucket == "pictures"
    for url in ("var/objects", "s3://pictures/some/where"):
        with pytest.raises(BadSettings):
            _ = Storage(Settings(objects_url=url), {}).bucket


def test_opening_ahead_fails_quietly_and_holds_no_start_up(gatekeeper, tmp_path, lines):
    storage, opened = open_storage(gatekeeper, tmp_path / "localhost.pem"), []
    storage.open(lambda: opened.append(1))
    storage.open(lambda: 1 / 0)
    assert opened == [1]
    assert any("ZeroDivisionError" in line["error"] for line in lines())


@pytest.mark.parametrize("function", ["infer", "upload", "query"])
def test_a_container_starts_though_nothing_that_it_needs_is_there(function, models_dir):
    """It says so in its log, and the first event is told: a container that does not start would tell nobody."""
    environment = {"PYTHONPATH": str(ROOT), "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1", "SHUTTERLESS_MODEL": "none",
                   "SHUTTERLESS_MODELS_DIR": str(models_dir), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    done = subprocess.run([sys.executable, "-c", f"import lambdas.{function}; print('started')"], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "started"), done.stderr
