"""What a function is told by its environment."""

from __future__ import annotations

from collections.abc import Mapping

from shutterless.settings import Settings, usable_cpus

MB_PER_CPU = 1769  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings of a function: /tmp is what it may write, a CPU comes with each 1,769 MB. Raises BadSettings."""
    cpus = max(1, min(usable_cpus(), round(int(environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MB_PER_CPU)) / MB_PER_CPU)))
    return Settings.from_environment({"SHUTTERLESS_VAR_DIR": "/tmp/shutterless", "SHUTTERLESS_THREADS": str(cpus),  # noqa: S108
                                      **environ})
