"""A disk that is really full: a file system in memory of a few megabytes, which only the server's process sees."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.onprem.conftest import Process

MOUNT = ["unshare", "--user", "--map-root-user", "--mount"]
SIZE = "6m"


pytestmark = pytest.mark.needs("mounts")


@pytest.fixture
def server(models_dir: Path, tmp_path: Path) -> Iterator[Process]:
    """Its var folder is that file system."""
    var_dir = tmp_path / "var"
    var_dir.mkdir()
    wrapped = [*MOUNT, "sh", "-c", f'mount -t tmpfs -o size={SIZE} tmpfs "{var_dir}" && exec "$@"', "sh"]
    server = Process(wrapped, SHUTTERLESS_MODEL="colours", SHUTTERLESS_MODELS_DIR=models_dir, SHUTTERLESS_VAR_DIR=var_dir,
                     SHUTTERLESS_PORT=0)
    yield server
    server.kill()


def test_a_full_disk_loses_nothing_acknowledged_and_uploads_go_on_when_there_is_room(server, draw, encode, settle) -> None:
    large = encode(draw((700, 500)), "PNG")
    assert len(large) > 200_000
    with httpx.Client(base_url=server.url(), timeout=60) as client:
        kept, refused = dict[str, bytes](), []
        for number in range(80):
            path = ("/upload-image", "/upload")[number % 2]
            answer = client.post(path, params={"true_label": str(number)}, content=large)
            if answer.status_code in (200, 202):
                kept[answer.json()["request_id"]] = large
            else:
                refused.append(answer)
            if len(refused) == 8:
                break
        assert len(kept) > 3
        assert {answer.status_code for answer in refused} == {503}, [answer.text for answer in refused]
        assert all(answer.headers["retry-after"] and "again" in answer.json()["detail"] for answer in refused)
        assert client.post("/predict", content=large).status_code == 200
        assert client.get("/health/live").status_code == 200
        for request_id in list(kept)[:3]:
            assert client.delete(f"/results/{request_id}").status_code == 204
            del kept[request_id]
        assert {settle(client, request_id)["status"] for request_id in kept} == {"done"}
        for request_id, picture in kept.items():
            assert client.get(f"/results/{request_id}/image").content == picture
        rows = client.get("/results", params={"limit": 100}).json()["results"]
        assert {row["request_id"] for row in rows} == set(kept)
        again = client.post("/upload", content=large)
        assert again.status_code == 200, again.text
