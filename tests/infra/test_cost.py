"""What a stage is said to cost: by hand, by switch, and with everything that it assumes."""

import json
import re
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
from tests.infra.synthesized import SWITCHED

ROOT = Path(__file__).parents[2]
PRICES = prices_of("us-east-1")
DEV = STAGES["dev"]
WARM = {"predict": Function(memory_mb=1769, timeout_s=20, provisioned=1)}


def idle(stage: Stage) -> float:
    return total(Estimate(stage, PRICES).idle())


def test_dev_costs_its_database_and_little_else_when_nobody_asks():
    by_hand = 730 * 0.016 + 20 * 0.115 + 3 + 26 * 0.10 + 5 * 3600 * 730 / 20 * 0.0000004 + 0.2 * 0.10
    assert idle(DEV) == pytest.approx(by_hand)
    assert idle(DEV) < 20


def test_a_million_predictions_cost_requests_seconds_and_logs():
    starts = 10_000 * 0.4 * 1769 / 1024 * 0.0000166667
    by_hand = 3.5 + 0.2 + 1_000_000 * 0.035 * 1769 / 1024 * 0.0000166667 + starts + 1.5 * 0.5
    assert total(Estimate(DEV, PRICES).at_once()) == pytest.approx(by_hand)


def test_a_million_uploads_cost_two_requests_each_and_keep_their_pictures():
    lines = {line.what: line for line in Estimate(DEV, PRICES).later()}
    assert lines["requests to the API"].usd == pytest.approx(7)
    assert lines["pictures kept for a month"].quantity == 100
    assert lines["infer, time"].usd == pytest.approx(1_000_000 * 0.06 * 1769 / 1024 * 0.0000166667)
    assert lines["infer, starts"].usd == pytest.approx(500_000 * 0.01 * 0.4 * 1769 / 1024 * 0.0000166667)
    assert lines["query, calls"].usd == pytest.approx(0.2)
    assert lines["logs"].usd == pytest.approx(2.5 * 1.5 * 0.5), "three calls, of which infer's is for two pictures"
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
    for prices in table["regions"].values():
        for name, price in prices.items():
            assert price["usd"] > 0, name
            assert price["per"], name
            assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", price["as_of"]), name
            assert price["source"].startswith("https://aws.amazon.com/"), name


def test_a_price_that_the_table_holds_is_one_that_an_estimate_uses():
    every = [DEV, *STAGES.values(), *SWITCHED.values(), replace(DEV, architecture="arm64", functions=WARM),
             replace(DEV, functions=WARM), replace(DEV, database=Database(proxy=True)), replace(DEV, snapstart=True),
             replace(DEV, database=Database(proxy=True, aurora=Aurora(min_units=0.5)))]
    used = {line.of for stage in every for _, lines in command.sections(Estimate(stage, PRICES)).values() for line in lines}
    assert PRICES.by_name.keys() - used == set()


def test_each_line_says_which_assumptions_it_stands_on():
    for assumed in ASSUMED:
        changed = {**ASSUMED, assumed: ASSUMED[assumed]._replace(value=3 * ASSUMED[assumed].value)}
        for name, (_, lines) in command.sections(Estimate(DEV, PRICES)).items():
            others = command.sections(Estimate(DEV, PRICES, changed))[name][1]
            moved = {line.what for line, other in zip(lines, others, strict=True) if line.usd != other.usd}
            assert moved == {line.what for line in lines if assumed in line.assumes}, assumed


def test_restored_snapshots_are_billed_by_the_gigabyte():
    lines = {line.what: line for line in Estimate(replace(DEV, snapstart=True), PRICES).at_once()}
    assert lines["predict, restored"].usd == pytest.approx(10_000 * 1769 / 1024 * 0.0001397998)
    assert "predict, starts" not in lines


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
    assert "https://aws.amazon.com/lambda/pricing/" in shown
    assert "2026-05" in shown


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
