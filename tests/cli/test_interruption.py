import os
import signal

import pytest

from cli.interruption import ended_tidily


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_process_lets_it_tidy_up_first(name: signal.Signals):
    with pytest.raises(SystemExit) as ended, ended_tidily():
        os.kill(os.getpid(), name)
    assert ended.value.code == 128 + name
    assert signal.getsignal(name) is signal.SIG_DFL


def test_a_second_signal_does_not_break_the_tidying_off():
    tidied = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            tidied.append("all")

    with pytest.raises(SystemExit) as ended, ended_tidily():
        work()
    assert (ended.value.code, tidied) == (128 + signal.SIGTERM, ["all"])


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_tidily():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
