"""What a stage is said to cost: by hand, by switch, and with everything that it assumes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli import cost as command
from cli.main import main
from infra.cost import ASSUMED, Assumption, Estimate, total
from infra.prices import TABLE, prices_of
from infra.stages import STAGES, Aurora, Database, Function, Stage
from shutterless.errors import NotFound

ROOT = Path(__file__).parents[2]
PRICES = prices_of("us-east-1")
DEV = STAGES["dev"]


def idle(stage: Stage) -> float:
    return total(Estimate(stage, PRICES).idle())


def test_dev_costs_its_database_and_little_else_when_nobody_asks():
    by_hand = 730 * 0.016 + 20 * 0.115 + 3 + 26 * 0.10 + 5 * 3600 * 730 / 20 * 0.0000004 + 0.2 * 0.10
    assert idle(DEV) == pytest.approx(by_hand)
    assert idle(DEV) < 20


def test_a_million_predictions_cost_requests_seconds_and_logs():
    by_hand = 3.5 + 0.2 + 1_000_000 * 0.035 * 1769 / 1024 * 0.0000166667 + 1.5 * 0.5
    assert total(Estimate(DEV, PRICES).at_once()) == pytest.approx(by_hand)


def test_a_million_uploads_cost_two_requests_each_and_keep_their_pictures():
    lines = {line.what: line for line in Estimate(DEV, PRICES).later()}
    assert lines["requests to the API"].usd == pytest.approx(7)
    assert lines["pictures kept for a month"].quantity == 100
    assert lines["queue"].quantity == 1_000_000 * (1 + 2 / 2), "one sent, and for two messages one received and one deleted"


@pytest.mark.parametrize("dearer", [
    {"waf": True}, {"snapstart": True}, {"functions": {"predict": Function(memory_mb=1769, timeout_s=20, provisioned=1)}},
    {"database": Database(proxy=True)}, {"database": Database(in_two_zones=True)},
    {"database": Database(instance="db.t4g.small")}, {"database": Database(aurora=Aurora(min_units=0.5))}], ids=str)
def test_every_switch_shows_in_the_month_in_which_nobody_asks(dearer):
    assert idle(replace(DEV, **dearer)) > idle(DEV) + 1


def test_aurora_that_pauses_costs_less_than_an_instance():
    assert idle(replace(DEV, database=Database(aurora=Aurora()))) < idle(DEV) - 10


def test_arm_and_the_firewall_show_in_a_million():
    at_once = total(Estimate(DEV, PRICES).at_once())
    assert total(Estimate(replace(DEV, architecture="arm64"), PRICES).at_once()) < at_once
    assert total(Estimate(replace(DEV, waf=True), PRICES).at_once()) == pytest.approx(at_once + 0.6)


def test_an_assumption_that_changes_changes_the_result():
    slow = {**ASSUMED, "predict": Assumption(70, "ms billed", "twice")}
    assert total(Estimate(DEV, PRICES, slow).at_once()) > total(Estimate(DEV, PRICES).at_once()) + 0.9


def test_every_price_has_its_unit_and_its_page():
    table = json.loads(TABLE.read_text())
    assert len(table["as_of"]) == len("2026-05")
    for prices in table["regions"].values():
        assert all(price["usd"] > 0 and price["per"] and price["source"].startswith("https://aws.amazon.com/")
                   for price in prices.values())


@pytest.mark.parametrize("stage", STAGES)
def test_there_is_a_price_for_all_that_the_stages_have(stage):
    estimate = Estimate(STAGES[stage], PRICES)
    assert all(line.usd > 0 for _, lines in command.sections(estimate).values() for line in lines)


def test_a_region_or_an_instance_without_a_price_is_refused_with_where_to_add_it():
    with pytest.raises(NotFound, match=r"infra/prices\.json"):
        prices_of("mars-north-1")
    with pytest.raises(NotFound, match=r"no price of db\.r9\.huge"):
        idle(replace(DEV, database=Database(instance="db.r9.huge")))


def test_people_see_totals_lines_and_assumptions(capsys):
    assert main(["cost", "dev"]) == 0
    shown = capsys.readouterr().out
    assert "A month in which nobody asks:" in shown
    assert "db.t4g.micro" in shown
    assert "prices of" in shown
    assert all(assumed.reason in shown for assumed in ASSUMED.values())


def test_programs_get_the_same_as_json(capsys):
    assert main(["cost", "prod", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["idle_usd"] == pytest.approx(sum(line["usd"] for line in told["lines"]["idle"]), abs=1e-3)
    assert told["assumed"].keys() == ASSUMED.keys()


def test_an_unknown_stage_is_a_sentence(capsys):
    assert main(["cost", "nowhere"]) == 1
    assert "one of dev, staging, prod, rehearsal" in capsys.readouterr().err


def test_it_needs_neither_cdk_nor_credentials():
    code = "import sys; from cli.main import main; main(['cost', 'dev']); print(sorted({'aws_cdk', 'boto3'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
