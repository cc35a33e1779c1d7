"""The stages, and all in which they differ. What AWS would refuse, or what could not work, is refused here with a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from shutterless.errors import BadSettings

API_GATEWAY_S = 29  # the longest that it waits for a function
MIGRATIONS = 1  # runs of migrate at the same time
RESERVED_CONNECTIONS = 10  # that PostgreSQL and RDS keep for themselves, and two for a person with psql
RETRY_FOR_S = 30 * 60  # deliveries go on for so long, so that a restart of the database makes no dead letters
VISIBILITY = 6  # times the function's timeout: AWS's advice, since only then the first try has surely ended
MIN_RECEIVES = 5  # AWS's advice for queues that Lambda reads
UNRESERVED = 100  # that AWS keeps free of reservations in every account
LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365)  # of those that CloudWatch offers, up to a year
IN_VPC = ("upload", "query", "infer", "migrate")


class BadStage(BadSettings):
    """A stage that AWS would refuse, or that could not work."""

    title = "Stage not possible"


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function's size. reserved: copies that only it may use, and no more; None leaves it to the account. provisioned:
    copies that are kept warm, and paid for."""

    memory_mb: int
    timeout_s: int
    reserved: int | None = None
    provisioned: int = 0


@dataclass(frozen=True, kw_only=True)
class Aurora:
    """Aurora Serverless v2 in place of an instance. One unit is about 2 GB; from 0 units on, it pauses when nobody asks."""

    min_units: float = 0.0
    max_units: float = 2.0
    pause_after_s: int = 300


@dataclass(frozen=True, kw_only=True)
class Database:
    """PostgreSQL. engine: its major version. max_connections: set in its parameters, so that what functions can open is
    compared with a known number.

    password: only where there is no IAM, which is the emulator; None everywhere else, so that no password exists.
    """

    engine: str = "17"
    instance: str = "db.t4g.micro"
    storage_gb: int = 20
    max_storage_gb: int = 100
    max_connections: int = 100
    backup_days: int = 1
    in_two_zones: bool = False
    is_protected: bool = False
    aurora: Aurora | None = None
    proxy: bool = False
    password: str | None = None

    @property
    def kind(self) -> str:
        """What keeps the data: one does not become the other, and a deploy would begin with an empty one."""
        return "aurora" if self.aurora else "instance"


@dataclass(frozen=True, kw_only=True)
class Throttle:
    """Of the API as a whole, and of each key: requests a second, how many may come at once, and how many in a month."""

    rate_per_s: int
    burst: int
    quota_per_month: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One deployment. Every switch is off unless a stage turns it on.

    queue_concurrency: copies of infer that a queue may have at work. batch: messages for one invocation of infer.
    log_days: how long logs are kept. origins: pages that may call beside our own, exact. keeps_data: whether pictures and a
    last snapshot of the database outlive `make destroy`. model_from: "image", where the bundle is baked in and a cold start
    takes a third of the time, or "bucket", where it is read from S3 by its digest. account_concurrency: copies of functions
    that the account allows at once, where it is known. canary: share of the calls in percent that a new version gets for five
    minutes before it gets all. budget_usd: of a month, for the whole account.
    """

    name: str
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    functions: Mapping[str, Function] = field(default_factory=dict)
    queue_concurrency: int = 2
    batch: int = 8
    batch_window_s: int = 0
    database: Database = field(default_factory=Database)
    throttle: Throttle = Throttle(rate_per_s=5, burst=10, quota_per_month=100_000)
    origins: tuple[str, ...] = ()
    log_days: int = 7
    keeps_data: bool = False
    model_from: Literal["image", "bucket"] = "image"
    account_concurrency: int | None = None
    snapstart: bool = False
    canary: int = 0
    waf: bool = False
    iam_auth: bool = False
    alarm_email: str | None = None
    budget_usd: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "functions", {**FUNCTIONS, **self.functions})
        for is_bad, why in _refusals(self):
            if is_bad:
                raise BadStage(f"Stage {self.name}: {why}")

    @property
    def has_alias(self) -> bool:
        """Whether callers reach versions of the functions through an alias, `live`. When the last switch that wants it is turned
        off, the API fails for the minute that lies between the functions' stack and its own."""
        return self.snapstart or bool(self.canary) or any(one.provisioned for one in self.functions.values())

    @property
    def iam_database(self) -> bool:
        """Whether the database lets people and functions in by IAM."""
        return self.database.password is None

    @property
    def visibility_s(self) -> int:
        """How long SQS hides a message that infer works on."""
        return VISIBILITY * self.functions["infer"].timeout_s + self.batch_window_s

    @property
    def max_receives(self) -> int:
        """Deliveries of a message before it is a dead letter."""
        return max(MIN_RECEIVES, ceil(RETRY_FOR_S / self.visibility_s))

    @property
    def connections(self) -> int:
        """That the functions can have open at once, each copy one: what the queue, reservations, throttle and account let run."""
        per_door = [self.functions[name].reserved for name in ("upload", "query")]
        requests = self.throttle.burst + self.throttle.rate_per_s * max(self.functions[name].timeout_s
                                                                        for name in ("upload", "query"))
        doors = sum(one for one in per_door if one is not None) + (requests if None in per_door else 0)
        return min(doors + self.queue_concurrency, self.account_concurrency or doors + self.queue_concurrency) + MIGRATIONS


FUNCTIONS = {
    "upload": Function(memory_mb=512, timeout_s=10),
    "query": Function(memory_mb=512, timeout_s=10),
    "predict": Function(memory_mb=1769, timeout_s=20),  # one whole CPU
    "infer": Function(memory_mb=1769, timeout_s=60),
    "migrate": Function(memory_mb=512, timeout_s=300),
}


def _refusals(stage: Stage) -> list[tuple[bool, str]]:
    """Whether something is wrong, and the sentence that says so."""
    functions, database = stage.functions, stage.database
    provisioned = [name for name, one in functions.items() if one.provisioned]
    held = sum(max(one.reserved or 0, one.provisioned) for one in functions.values())
    return [
        (not re.fullmatch(r"[a-z][a-z0-9]{1,11}", stage.name),
         "expected a name of 2 to 12 small letters and digits. It becomes part of bucket names."),
        (set(functions) != set(FUNCTIONS),
         f"expected sizes of {', '.join(FUNCTIONS)}, got {', '.join(functions)}. Correct the names."),
        *((not 128 <= one.memory_mb <= 10_240, f"{name}: expected 128 to 10240 MB of memory, got {one.memory_mb}.")
          for name, one in functions.items()),
        *((not 1 <= one.timeout_s <= 900, f"{name}: expected a timeout of 1 to 900 s, got {one.timeout_s}.")
          for name, one in functions.items()),
        *((functions[name].timeout_s > API_GATEWAY_S,
           f"{name}: expected a timeout of at most {API_GATEWAY_S} s, since API Gateway does not wait longer, got "
           f"{functions[name].timeout_s}.") for name in ("upload", "query", "predict")),
        (functions["infer"].timeout_s < 60, "infer: expected a timeout of at least 60 s, since a cold start takes its part."),
        (functions["migrate"].timeout_s < 120,
         "migrate: expected a timeout of at least 120 s, since the database may be starting."),
        (stage.visibility_s > 43_200, "SQS hides a message for 12 hours at most. Shorten infer's timeout."),
        (not 2 <= stage.queue_concurrency <= 1000,
         f"SQS lets 2 to 1000 copies of a function work on a queue, got {stage.queue_concurrency}."),
        (not 1 <= stage.batch <= 10_000, f"SQS gives Lambda 1 to 10000 messages at once, got {stage.batch}."),
        (not 0 <= stage.batch_window_s <= 300, f"Lambda waits for 0 to 300 s for a batch, got {stage.batch_window_s}."),
        (stage.batch > 10 and not stage.batch_window_s, "a batch of more than 10 messages needs a batch window of at least 1 s."),
        (stage.snapstart and bool(provisioned),
         f"SnapStart and provisioned concurrency exclude each other, and {', '.join(provisioned)} has both. Turn one off."),
        (bool(stage.canary) and bool(provisioned),
         f"a canary gives its alias weights, and AWS takes no alias with weights for provisioned concurrency, which "
         f"{', '.join(provisioned)} has. Turn one off."),
        ("migrate" in provisioned, "migrate: it runs at deploys alone, so that copies kept warm would be paid for nothing."),
        *((one.reserved is not None and one.provisioned > one.reserved,
           f"{name}: {one.provisioned} provisioned copies do not fit into {one.reserved} reserved ones.")
          for name, one in functions.items()),
        (functions["infer"].reserved is not None and (functions["infer"].reserved or 0) < stage.queue_concurrency,
         "infer: fewer copies are reserved than the queue may use, so SQS would throttle and messages become dead letters."),
        (stage.account_concurrency is not None and held > max(0, stage.account_concurrency - UNRESERVED),
         f"{held} copies are reserved or kept warm, but AWS keeps {UNRESERVED} of the account's {stage.account_concurrency} "
         "free. Reserve none, or ask for a higher quota."),
        (stage.log_days not in LOG_DAYS,
         f"CloudWatch keeps logs for {', '.join(map(str, LOG_DAYS))} days, got {stage.log_days}."),
        (min(stage.throttle.rate_per_s, stage.throttle.burst, stage.throttle.quota_per_month) < 1,
         "expected a throttle and a quota of at least 1: with less, the API refuses every request."),
        (stage.budget_usd is not None and stage.alarm_email is None,
         "a budget helps nobody if it tells nobody: expected alarm_email beside budget_usd, got none. Set it."),
        (stage.budget_usd is not None and stage.budget_usd < 1,
         f"expected a budget of at least 1 dollar, got {stage.budget_usd}."),
        (not 0 <= stage.canary < 100, f"canary: expected a share of 1 to 99 percent, or 0 for none, got {stage.canary}."),
        (any(origin == "*" or not re.fullmatch(r"https?://[^\s/*?#@]+", origin) for origin in stage.origins),
         "expected exact origins like https://example.org, without a path or star."),
        (database.proxy and database.aurora is not None and database.aurora.min_units == 0,
         "RDS Proxy keeps connections open, so that Aurora would never pause. Give it min_units of 0.5, or turn the proxy off."),
        (database.aurora is not None and not 0 <= database.aurora.min_units <= database.aurora.max_units <= 256,
         "Aurora takes 0 to 256 units, the smaller number first."),
        (database.aurora is not None and database.aurora.max_units < 1, "Aurora needs 1 unit at least when it is at work."),
        (database.aurora is not None and bool(2 * database.aurora.min_units % 1 or 2 * database.aurora.max_units % 1),
         "Aurora counts in halves of a unit."),
        (database.aurora is not None and not 300 <= database.aurora.pause_after_s <= 86_400,
         "Aurora pauses after 300 to 86400 s."),
        (database.aurora is not None and not 1 <= database.backup_days <= 35, "Aurora keeps backups for 1 to 35 days."),
        (database.aurora is None and not 20 <= database.storage_gb <= 0.9 * database.max_storage_gb,
         f"RDS allocates 20 GB at least, and its limit has to be a tenth above that, got {database.storage_gb} and "
         f"{database.max_storage_gb} GB."),
        (not 0 <= database.backup_days <= 35, "RDS keeps backups for 0 to 35 days."),
        (database.password is not None and stage.name != "rehearsal",
         "a password is for the emulator only. Leave it out, and IAM lets the functions in."),
        (database.proxy and database.password is not None, "the proxy knows functions by IAM, not by a password. Turn one off."),
        (stage.connections > database.max_connections - RESERVED_CONNECTIONS,
         f"the functions can open {stage.connections} connections, but of the database's {database.max_connections} only "
         f"{database.max_connections - RESERVED_CONNECTIONS} are theirs. Reserve concurrency for upload and query, throttle "
         "more, or take a larger database."),
    ]


STAGES: Mapping[str, Stage] = {stage.name: stage for stage in (
    Stage(name="dev", origins=("http://localhost:5173",)),
    Stage(name="staging", log_days=30, queue_concurrency=5, throttle=Throttle(rate_per_s=10, burst=20, quota_per_month=1_000_000),
          database=Database(instance="db.t4g.small", max_connections=180, backup_days=3)),
    Stage(name="prod", log_days=90, queue_concurrency=20, keeps_data=True,
          throttle=Throttle(rate_per_s=25, burst=50, quota_per_month=10_000_000),
          database=Database(instance="db.t4g.medium", max_connections=400, backup_days=14, in_two_zones=True,
                            is_protected=True)),
    Stage(name="rehearsal", log_days=1, queue_concurrency=4, model_from="bucket", origins=("http://localhost:5173",),
          account_concurrency=10, throttle=Throttle(rate_per_s=20, burst=50, quota_per_month=100_000),
          functions={name: Function(memory_mb=512, timeout_s=API_GATEWAY_S) for name in ("upload", "query")},  # slow starts
          database=Database(engine="15", max_connections=300, backup_days=0, password="rehearsal")),  # noqa: S106  the emulator's
)}


def stage_named(name: str | None) -> Stage:
    """Raises BadStage, which lists the stages."""
    if name is None or name not in STAGES:
        raise BadStage(f"Expected a stage, one of {', '.join(STAGES)}, got {name!r}. Name it: make deploy STAGE=dev, or "
                       "cdk deploy --all -c stage=dev.")
    return STAGES[name]


