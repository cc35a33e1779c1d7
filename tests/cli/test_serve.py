import json
import re
import signal
import urllib.request


def test_serve_says_where_it_listens_answers_there_and_ends_with_0_on_ctrl_c(start):
    process = start("serve", "--port", "0", "--model", "colours")
    address = re.search(rb"http://\S+", process.stdout.readline())[0].decode()
    with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
        assert json.load(answer)["status"] == "ok"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_port_that_is_none_is_refused_with_a_sentence(shutterless):
    done = shutterless("serve", "--port", "http")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"SHUTTERLESS_PORT: expected an integer from 0 to 65535, got 'http'" in done.stderr


def test_a_model_that_is_not_there_is_refused_before_it_says_that_it_listens(start):
    process = start("serve", "--port", "0", "--model", "colors")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert b"colours/1" in err
