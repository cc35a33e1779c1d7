"""How an exception from AWS's rules (cdk-nag) is written down: beside the construct that needs it, with its reason."""

from __future__ import annotations

from typing import NamedTuple


class Exempt(NamedTuple):
    """rule: its name, without the pack's if that is AwsSolutions. where: the construct, and all below it. finding: of rules that
    find several things."""

    rule: str
    where: tuple[str, ...]
    reason: str
    finding: str = ""


NO_ACCESS_LOG = (
    "S3's access logs would cost more than the pictures they tell of. Who uploads and reads stands in the API's access log; S3 "
    "itself is asked by the functions alone, and by forms and links that they sign.")
