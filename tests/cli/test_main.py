import argparse
import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cli.main import GROUPS, build_parser, main
from shutterless import __version__

ROOT = Path(__file__).parents[2]
COMMANDS = [command for _, members in GROUPS for command in members]
HEAVY = {"numpy", "PIL", "onnxruntime", "torch", "torchvision", "boto3", "sqlalchemy", "fastapi", "rich"}


def name_of(command: ModuleType) -> str:
    return command.__name__.removeprefix("cli.").replace("_", "-")


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_with_its_purpose(capsys):
    text = help_of(capsys)
    for command in COMMANDS:
        assert re.search(rf"^  {name_of(command)} +[A-Z]", text, re.MULTILINE)
    assert "examples:" in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_the_help_of_every_command_has_examples_that_parse(command, capsys):
    name = name_of(command)
    text = help_of(capsys, name)
    examples = text.partition("examples:")[2].partition("\n\n")[0]
    examples = re.findall(r"(?:^|\| )\s*shutterless (.*)$", examples, re.MULTILINE)
    assert examples
    for example in examples:
        words = re.findall(r'"[^"]*"|\S+', re.split(r"   | [>|] ", example)[0])
        parsed = build_parser().parse_args([word.strip('"') for word in words])
        assert parsed.run is command.run


def test_help_imports_nothing_heavy():
    code = "import sys, cli.main; cli.main.build_parser(); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & set(done.stdout.split())


def test_every_file_of_the_folder_is_a_command_or_is_used_by_one():
    files = {path.stem for path in (ROOT / "cli").glob("*.py")} - {"__init__", "main"}
    commands = {command.__name__.removeprefix("cli.") for command in COMMANDS}
    code = "\n".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
    assert files == commands | set(re.findall(r"from cli\.(\w+) import", code)) - {"main"}


def test_version_is_the_project_s(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"shutterless {__version__}\n"


@pytest.mark.parametrize("typed", [[], ["dance"], ["predict"], ["serve", "--dance"]])
def test_what_is_typed_wrongly_ends_with_2_and_the_usage(typed, capsys):
    with pytest.raises(SystemExit) as ended:
        main(typed)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: shutterless")


def test_settings_that_do_not_fit_give_a_sentence_each_and_no_traceback(shutterless):
    done = shutterless("predict", "x.jpg", SHUTTERLESS_WORKERS="many", SHUTTERLESS_MAX_SIDE="-1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"SHUTTERLESS_WORKERS: expected" in done.stderr
    assert b"SHUTTERLESS_MAX_SIDE: expected" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def broken(arguments: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("cli.models.run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_a_package_that_is_not_installed_is_one_sentence_with_a_remedy(monkeypatch, capsys):
    from cli import models
    from cli.main import main

    def run(arguments: object) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(models, "run", run)
    assert main(["models"]) == 1
    assert "needs the package torch" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_is_one_sentence_with_a_remedy(monkeypatch, capsys, number):
    def run(arguments: object) -> int:
        raise OSError(number, os.strerror(number), "models/roofs")

    monkeypatch.setattr("cli.models.run", run)
    assert main(["models"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"shutterless: models/roofs: {os.strerror(number)}. Make room")
    assert len(said.splitlines()) == 1
