"""The page's files: ui/dist as soon as it is built, and until then a placeholder that says so."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from infra.sources import ROOT

BUILT = "ui/dist"
PLACEHOLDER = Path(__file__).parent / "placeholder"
SYNTHESIZED = "page"  # the folder beside the templates


@dataclass(frozen=True)
class Page:
    """folder: index.html, and what it asks for."""

    folder: Path
    is_built: bool


def page_of_project(root: Path = ROOT) -> Page:
    """The built page of the project in `root`, or the placeholder."""
    built = root / BUILT
    return Page(built, True) if (built / "index.html").is_file() else Page(PLACEHOLDER, False)


def add_page(page: Page, outdir: str) -> None:
    """Its files, to what synth wrote: all that a deploy would put anywhere lies there."""
    shutil.copytree(page.folder, Path(outdir) / SYNTHESIZED, dirs_exist_ok=True)
