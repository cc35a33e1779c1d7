"""Who runs the stage: shutterless's own commands, as they are typed, against the emulator."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rehearsal.cdk import STAGE
from rehearsal.emulator_process import Place
from rehearsal.processes import ended, marked
from rehearsal.watched import CheckFailed, expect

ANSWER_S, STOP_S = 300.0, 20.0
INTERRUPTED = 130  # how the command line ends after Ctrl-C
COMMAND = "import sys; from cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Told:
    """What a command wrote, and with which code it ended."""

    code: int
    out: str
    error: str


@dataclass(frozen=True)
class Operator:
    """folder: of this run. project: whose commands these are."""

    place: Place
    folder: Path
    project: Path

    def run(self, verb: str, *words: str, expect_code: int = 0) -> Told:
        """`shutterless VERB rehearsal WORDS`. Raises CheckFailed where it ends with another code, Late."""
        with self._start(verb, words) as process, ended(process, f"shutterless {verb}"):
            out, error = process.communicate(timeout=ANSWER_S)
        told = Told(process.returncode, out.decode(), error.decode())
        expect(told.code == expect_code, f"shutterless {verb} {STAGE} {' '.join(words)}: expected it to end with {expect_code}, "
                                         f"got {told.code}: {(told.error or told.out)[-1000:]}")
        return told

    def follow(self, ask: Callable[[], str], within_s: float) -> str:
        """The line of `shutterless logs --follow` that tells of what `ask` does, which returns a word of that line; then Ctrl-C.

        Raises CheckFailed where no such line comes, or where it does not end as Ctrl-C ends it.
        """
        log = self.folder / "followed"
        with log.open("wb") as out, self._start("logs", ("--follow", "--since", "1h"), out=out) as process, \
                ended(process, "shutterless logs"):
            self._line_of(process, log, " ", within_s)
            line = self._line_of(process, log, ask(), within_s)
            process.send_signal(signal.SIGINT)
            process.wait(STOP_S)
        expect(process.returncode == INTERRUPTED, f"shutterless logs --follow: expected {INTERRUPTED}, got {process.returncode}")
        return line

    def _line_of(self, process: subprocess.Popen[bytes], log: Path, word: str, within_s: float) -> str:
        deadline = time.monotonic() + within_s
        while True:
            written = log.read_text(errors="replace")
            found = [line for line in written.splitlines() if word in line]
            if found:
                return found[-1]
            if process.poll() is not None or time.monotonic() > deadline:
                raise CheckFailed(f"shutterless logs --follow: expected a line with {word} within {within_s:.0f} s, got "
                                  f"{written[-500:]}")
            time.sleep(0.2)

    def _start(self, verb: str, words: tuple[str, ...], out: object = subprocess.PIPE) -> subprocess.Popen[bytes]:
        environment = {**self.place.environment(), "PYTHONPATH": str(self.project), "COLUMNS": "200", "NO_COLOR": "1"}
        return subprocess.Popen([sys.executable, "-c", COMMAND, verb, STAGE, *words], cwd=self.project,  # type: ignore[call-overload, no-any-return]
                                env=marked(self.folder, environment), stdin=subprocess.DEVNULL, stdout=out,
                                stderr=subprocess.PIPE if out == subprocess.PIPE else subprocess.STDOUT, start_new_session=True)
