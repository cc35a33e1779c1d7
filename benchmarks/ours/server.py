"""Our server, with what is fixed in its code taken from the environment, so that the sweep can try it."""

import os

from onprem import batching, door
from onprem.server import serve
from shutterless.settings import Settings

batching.MAX_BATCH = int(os.environ["OURS_BATCH"])
batching.COMPANY_S = float(os.environ["OURS_WAIT_MS"]) / 1000
door.RUNNERS = int(os.environ["OURS_RUNNERS"])
serve(Settings.from_environment(os.environ))
