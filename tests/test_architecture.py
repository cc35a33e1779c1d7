"""Who may import whom: doors -> core <- model_export, and nothing heavy where a container starts cold."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOORS = {"lambdas", "onprem", "cli"}
FOLDERS = ("shutterless", *sorted(DOORS), "model_export", "infra", "benchmarks", "rehearsal")

# Package -> the only places that may import it, files or folders.
ONLY_IN = {
    "boto3": ("shutterless/aws.py", "model_export/publish.py", "infra", "benchmarks", "rehearsal"),
    "botocore": ("shutterless/aws.py", "model_export/publish.py", "infra", "benchmarks", "rehearsal"),
    "sqlalchemy": ("shutterless/results.py", "shutterless/migrations"),
    "alembic": ("shutterless/results.py", "shutterless/migrations"),
    "torch": ("model_export", "benchmarks/references"),
    "torchvision": ("model_export", "benchmarks/references"),
    "aws_cdk": ("infra", "app.py"),
    "jsii": ("infra",),
    "constructs": ("infra",),
    "fastapi": ("onprem", "benchmarks/references"),
    "ministack": ("rehearsal/emulator",),
}
COLD_PATH = ("shutterless.classifier", "shutterless.bodies", "shutterless.problems")
TOO_SLOW_TO_START = ("boto3", "botocore", "sqlalchemy", "alembic", "pydantic", "fastapi", "starlette", "torch",
                     "torchvision", "transformers", "requests", "onnx", "jsonschema")


def sources() -> list[Path]:
    return [ROOT / "app.py", *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))
                               if "node_modules" not in file.parts)]


def imported(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in it; not those under `if TYPE_CHECKING:`."""
    pending: list[ast.AST] = [ast.parse(file.read_text())]
    while pending:
        node = pending.pop()
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.ImportFrom(module=module):
                yield ".".join([*file.relative_to(ROOT).parts[:-node.level], *([module] if module else [])])
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                pending.extend(orelse)
            case _:
                pending.extend(ast.iter_child_nodes(node))


def imports() -> list[tuple[str, str]]:
    """Pairs of a file, relative to the project, and the top-level package that it imports."""
    files = [file for file in sources() if file.exists()]
    assert len(files) > 10, "the walk has lost its way"
    return [(file.relative_to(ROOT).as_posix(), name.split(".")[0]) for file in files for name in imported(file)]


def test_the_core_imports_no_door_and_no_tool():
    outside = DOORS | {"model_export", "infra", "benchmarks", "rehearsal"}
    assert [pair for pair in imports() if pair[0].startswith("shutterless/") and pair[1] in outside] == []


def test_nobody_imports_a_door():
    """A door imports its own modules; only the command line opens others, when their command is called."""
    assert [(file, package) for file, package in imports()
            if package in DOORS and not file.startswith((f"{package}/", "cli/"))] == []


def test_model_export_knows_only_the_core():
    others = DOORS | {"infra", "benchmarks", "rehearsal"}
    assert [pair for pair in imports() if pair[0].startswith("model_export/") and pair[1] in others] == []


@pytest.mark.parametrize("package", ONLY_IN)
def test_each_heavy_package_has_its_one_place(package):
    strays = {file for file, name in imports() if name == package
              and not any(file == place or file.startswith(f"{place}/") for place in ONLY_IN[package])}
    assert strays == set()


@pytest.mark.parametrize("module", COLD_PATH)
def test_what_a_lambda_needs_for_a_prediction_starts_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert module in shown.split()
    assert sorted(set(shown.split()) & set(TOO_SLOW_TO_START)) == []
