"""`python -m onprem`: the server as its container and its systemd unit start it, set up by the environment alone."""

import os
import sys

from onprem.server import serve
from shutterless.errors import ShutterlessError
from shutterless.settings import Settings

if __name__ == "__main__":
    try:
        serve(Settings.from_environment(os.environ))
    except ShutterlessError as error:
        sys.exit(f"shutterless: {error}")
