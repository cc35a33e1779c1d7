"""`make rehearse`: bootstrap, deploy, drive, look, change, deploy again, destroy; and nothing stays behind.

KEEP=1 leaves the deployed system and the emulator running. `python -m rehearsal stop` ends what was kept.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console

from rehearsal.play import rehearse, stop_kept
from shutterless.errors import ShutterlessError


def main() -> int:
    """0 when all that was tried went as it should."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    try:
        if sys.argv[1:] == ["stop"]:
            return stop_kept(console)
        return rehearse(console, keep=os.environ.get("KEEP", "") not in ("", "0"), base_image=os.environ.get("BASE_IMAGE", ""))
    except ShutterlessError as error:
        console.print(str(error), style="red", markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
