"""A copy of the project, so that a rehearsal may edit a handler without touching anybody's files."""

from __future__ import annotations

import shutil
from pathlib import Path

from rehearsal.emulator_process import ROOT

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "var", "node_modules", "cdk.out", "__pycache__", "tests", "benchmarks",
                                  "*.egg-info", ".*_cache")
EDIT = '''

_handler = handler


def handler(event: Any, context: Any) -> dict[str, Any]:
    """As before, and says that it was edited."""
    answer = _handler(event, context)
    answer["headers"]["X-Rehearsal"] = "edited"
    return answer
'''


def copy_project(to: Path) -> None:
    """All that a deploy reads. The environments are linked."""
    shutil.copytree(ROOT, to, ignore=LEFT_OUT, symlinks=True)
    for name in (".venv", "infra/node_modules"):
        if (ROOT / name).exists():
            (to / name).symlink_to(ROOT / name)


def edit_handler(project: Path) -> None:
    """predict's answers get a header that tells new code from old."""
    with (project / "lambdas/predict.py").open("a", encoding="utf-8") as handler:
        handler.write(EDIT)
