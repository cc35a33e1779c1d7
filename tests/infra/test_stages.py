"""Stages that AWS would refuse, or that could not work, are refused with a sentence."""

from dataclasses import replace

import pytest

from infra.stages import STAGES, Aurora, BadStage, Database, Function, Throttle, stage_named

DEV = STAGES["dev"]
PREDICT = {"memory_mb": 1769, "timeout_s": 20}


def sized(name, **changes):
    return {"functions": {**DEV.functions, name: replace(DEV.functions[name], **changes)}}


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"name": "Dev-1"}, "small letters and digits"),
    ({"functions": {"predct": Function(**PREDICT)}}, "expected sizes of upload, query"),
    (sized("predict", memory_mb=64), "predict: expected 128 to 10240 MB"),
    (sized("infer", timeout_s=901), "infer: expected a timeout of 1 to 900 s"),
    (sized("predict", timeout_s=30), "API Gateway does not wait longer, got 30"),
    (sized("infer", timeout_s=30), "infer: expected a timeout of at least 60 s"),
    (sized("migrate", timeout_s=60), "migrate: expected a timeout of at least 120 s"),
    ({"queue_concurrency": 1}, "2 to 1000 copies"),
    ({"batch": 0}, "1 to 10000 messages at once, got 0"),
    ({"batch_window_s": 301}, "0 to 300 s for a batch, got 301"),
    ({"batch": 20}, "needs a batch window"),
    ({"snapstart": True, **sized("predict", provisioned=1)}, "exclude each other, and predict has both"),
    ({"canary": 10, **sized("predict", provisioned=1)}, "AWS takes no alias with weights for provisioned concurrency"),
    (sized("migrate", provisioned=1), "migrate: it runs at deploys alone"),
    ({"account_concurrency": 102, **sized("predict", provisioned=3)}, "3 copies are reserved or kept warm"),
    (sized("predict", provisioned=3, reserved=2), "3 provisioned copies do not fit into 2"),
    (sized("infer", reserved=1), "fewer copies are reserved than the queue may use"),
    ({"account_concurrency": 10, **sized("predict", reserved=5)}, "AWS keeps 100 of the account's 10 free"),
    ({"log_days": 8}, "CloudWatch keeps logs for 1, 3, 5, 7"),
    ({"throttle": Throttle(rate_per_s=5, burst=0, quota_per_month=1)}, "the API refuses every request"),
    ({"budget_usd": 50}, "a budget helps nobody if it tells nobody"),
    ({"budget_usd": 0, "alarm_email": "a@example.org"}, "at least 1 dollar, got 0"),
    ({"canary": 100}, "a share of 1 to 99 percent"),
    ({"origins": ("*",)}, "exact origins"),
    ({"origins": ("https://example.org/",)}, "exact origins"),
    ({"database": Database(proxy=True, aurora=Aurora())}, "Aurora would never pause"),
    ({"database": Database(aurora=Aurora(min_units=4, max_units=2))}, "0 to 256 units"),
    ({"database": Database(aurora=Aurora(max_units=0.5))}, "1 unit at least"),
    ({"database": Database(aurora=Aurora(max_units=1.2))}, "in halves of a unit"),
    ({"database": Database(storage_gb=10)}, "20 GB at least"),
    ({"database": Database(storage_gb=95)}, "a tenth above that, got 95 and 100"),
    ({"database": Database(password="hunter2", proxy=True)}, "a password is for the emulator only"),  # the first of two reasons
    ({"database": Database(aurora=Aurora(pause_after_s=60))}, "300 to 86400 s"),
    ({"database": Database(aurora=Aurora(), backup_days=0)}, "Aurora keeps backups for 1 to 35 days"),
    ({"database": Database(backup_days=36)}, "0 to 35 days"),
    ({"database": Database(password="hunter2")}, "a password is for the emulator only"),
    ({"database": Database(max_connections=60)}, "the functions can open 63 connections, but of the database's 60 only 50"),
    ({"throttle": Throttle(rate_per_s=50, burst=100, quota_per_month=1)}, "throttle more, or take a larger database"),
])
def test_what_cannot_work_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(BadStage, match="Stage") as refused:
        replace(DEV, **changes)
    assert sentence in str(refused.value)


def test_reservations_bound_the_connections_whatever_the_throttle_lets_in():
    sizes = {name: replace(size, reserved=10) if name in ("upload", "query") else size for name, size in DEV.functions.items()}
    busy = replace(DEV, functions=sizes, throttle=Throttle(rate_per_s=1000, burst=1000, quota_per_month=1))
    assert busy.connections == 10 + 10 + busy.queue_concurrency + 1


def test_a_new_account_s_limit_bounds_the_connections():
    assert replace(DEV, account_concurrency=10).connections == 10 + 1


def test_dev_is_small_and_every_switch_is_off():
    assert (DEV.snapstart, DEV.canary, DEV.waf, DEV.iam_auth, DEV.database.proxy, DEV.database.aurora, DEV.has_alias) == (
        False, 0, False, False, False, None, False)
    assert not any(size.reserved or size.provisioned for size in DEV.functions.values())
    assert DEV.database.instance == "db.t4g.micro"


def test_only_prod_keeps_data_and_only_the_emulator_has_a_password():
    assert [stage.name for stage in STAGES.values() if stage.keeps_data] == ["prod"]
    assert [stage.name for stage in STAGES.values() if not stage.iam_database] == ["rehearsal"]


@pytest.mark.parametrize("name", [None, "", "production"])
def test_an_unknown_stage_is_answered_by_the_list(name):
    with pytest.raises(BadStage, match="one of dev, staging, prod, rehearsal"):
        stage_named(name)
