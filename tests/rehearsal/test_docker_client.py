import sys

import pytest

from rehearsal import docker_client


@pytest.mark.parametrize(("told", "address"), [("172.17.0.0/16 172.17.0.1", "172.17.0.1"), ("172.17.0.0/16", "172.17.0.1"),
                                               ("10.9.8.0/24 10.9.8.77", "10.9.8.77")])
def test_the_bridge_has_an_address_before_docker_tells_it(monkeypatch, told, address):
    monkeypatch.setattr(docker_client, "docker", lambda *words: told)
    monkeypatch.setattr(sys, "platform", "linux")
    assert docker_client.bridge_address() == address
