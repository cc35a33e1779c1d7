"""What the REST API promises, each promise with a change of infra/api.py that breaks it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_

import infra.api
from infra.account import AccountStack
from infra.stages import STAGES, Stage, Throttle
from lambdas import query, upload
from lambdas.predictions import Predictions
from shutterless.formats import FORMATS
from shutterless.settings import Settings
from tests.infra.synthesized import SYNTH_S, Template, as_text, of_type, synthesized

pytestmark = pytest.mark.timeout(SYNTH_S)
SOURCE = Path(infra.api.__file__).read_text(encoding="utf-8")
PAGE, OTHER = "https://page.example.org", "https://other.example.org"
STAGE = Stage(name="dev", origins=(OTHER,), throttle=Throttle(rate_per_s=7, burst=13, quota_per_month=4711))
GUARDED = Stage(name="dev", origins=(OTHER,), waf=True, iam_auth=True)

# https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
KINDS = {"ACCESS_DENIED", "API_CONFIGURATION_ERROR", "AUTHORIZER_CONFIGURATION_ERROR", "AUTHORIZER_FAILURE",
         "BAD_REQUEST_BODY", "BAD_REQUEST_PARAMETERS", "DEFAULT_4XX", "DEFAULT_5XX", "EXPIRED_TOKEN", "INTEGRATION_FAILURE",
         "INTEGRATION_TIMEOUT", "INVALID_API_KEY", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN", "QUOTA_EXCEEDED",
         "REQUEST_TOO_LARGE", "RESOURCE_NOT_FOUND", "THROTTLED", "UNAUTHORIZED", "UNSUPPORTED_MEDIA_TYPE", "WAF_FILTERED"}


def synthesize(stage: Stage = STAGE, source: str = SOURCE) -> Template:
    """The stack of infra/api.py, or of a changed text of it, before three functions."""
    module = ModuleType("infra.api_of_a_test")
    exec(compile(source, "infra/api.py", "exec"), module.__dict__)
    app = cdk.App(analytics_reporting=False)
    service = cdk.Stack(app, "Service")
    functions = {name: lambda_.Function(service, name.title(), runtime=lambda_.Runtime.PYTHON_3_13, handler="x.y",
                                        code=lambda_.Code.from_inline("x")) for name in ("upload", "query", "predict")}
    workers = {name: SimpleNamespace(called_arn=function.function_arn) for name, function in functions.items()}
    module.ApiStack(app, "Api", stage=stage, service=SimpleNamespace(workers=workers), site=SimpleNamespace(origin=PAGE))
    return app.synth().get_stack_by_name("Api").template


def routes(template: Template) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and properties of every method."""
    resources = template["Resources"]

    def path(reference: dict[str, Any]) -> str:
        if "Ref" not in reference:
            return ""
        at = resources[reference["Ref"]]["Properties"]
        return f"{path(at['ParentId'])}/{at['PathPart']}"

    for method in of_type(template, "AWS::ApiGateway::Method"):
        yield method["HttpMethod"], path(method["ResourceId"]), method


def doors() -> dict[tuple[str, str], str]:
    """Method and path -> function, as lambdas/ implement them."""
    settings = Settings()
    opened = [upload.open_door(settings, None), query.open_door(settings, None),
              Predictions(SimpleNamespace(settings=settings)).door()]
    return {route: door.function for door in opened for route in door.routes}


# Promises.

def every_route_of_the_functions_is_there_and_leads_to_its_function(template: Template) -> None:
    led = {(method, path): as_text(told["Integration"]["Uri"]) for method, path, told in routes(template)
           if method not in ("OPTIONS", "ANY")}
    assert led.keys() == doors().keys()
    for route, function in doors().items():
        assert re.search(rf":ExportsOutputFnGetAtt{function.title()}(Function)?[0-9A-F]{{8}}Arn", led[route]), route


def any_other_method_gets_the_functions_own_405(template: Template) -> None:
    others = {path: as_text(told["Integration"]["Uri"]) for method, path, told in routes(template) if method == "ANY"}
    own = {path: as_text(told["Integration"]["Uri"]) for method, path, told in routes(template)
           if method not in ("OPTIONS", "ANY") and path != "/health"}
    assert others == own


def only_health_and_preflight_need_no_key(template: Template) -> None:
    open_ones = {(method, path) for method, path, told in routes(template) if not told["ApiKeyRequired"]}
    assert open_ones == {("GET", "/health"), *(("OPTIONS", path) for _, path in doors())}


def pictures_forms_and_bytes_arrive_as_bytes(template: Template) -> None:
    api, = of_type(template, "AWS::ApiGateway::RestApi")
    assert api["BinaryMediaTypes"] == [*(format.content_type for format in FORMATS), "multipart/form-data",
                                       "application/octet-stream"]


def preflight_tells_exactly_the_allowed_origins(template: Template) -> None:
    for method, path, told in routes(template):
        if method == "OPTIONS":
            reply, = told["Integration"]["IntegrationResponses"]
            written = reply["ResponseTemplates"]["application/json"]
            assert re.findall(r'\$origin == "([^"]+)"', written) == [PAGE, OTHER], path
            assert "Access-Control-Allow-Origin = $origin" in written
            assert not any(name.endswith("Allow-Origin") for name in reply["ResponseParameters"])
            assert reply["ResponseParameters"]["method.response.header.Vary"] == "'Origin'"


def preflight_names_the_methods_and_the_key_s_header(template: Template) -> None:
    for method, path, told in routes(template):
        if method == "OPTIONS":
            parameters = told["Integration"]["IntegrationResponses"][0]["ResponseParameters"]
            assert set(parameters["method.response.header.Access-Control-Allow-Methods"].strip("'").split(", ")) == {
                method for method, where in doors() if where == path}
            assert "X-Api-Key" in parameters["method.response.header.Access-Control-Allow-Headers"]


def preflight_survives_a_content_type_that_is_binary(template: Template) -> None:
    for method, _, told in routes(template):
        if method == "OPTIONS":
            assert told["Integration"].get("ContentHandling") == "CONVERT_TO_TEXT"
            assert {"application/json", "image/jpeg", "multipart/form-data"} <= told["Integration"]["RequestTemplates"].keys()


def whatever_api_gateway_refuses_is_a_problem_with_a_sentence(template: Template) -> None:
    responses = {told["ResponseType"]: told for told in of_type(template, "AWS::ApiGateway::GatewayResponse")}
    assert responses.keys() == KINDS
    for kind, told in responses.items():
        assert told["ResponseParameters"].get("gatewayresponse.header.Content-Type") == "'application/problem+json'"
        (body,) = told["ResponseTemplates"].values()
        problem = json.loads(body)
        assert (problem["type"], problem["request_id"]) == ("about:blank", "$context.requestId"), kind
        assert re.fullmatch(r"[A-Z].{20,}\.", problem["detail"]), kind
        assert str(problem.get("status")) == told.get("StatusCode", "None"), kind


def refusals_have_the_status_that_the_functions_would_give(template: Template) -> None:
    statuses = {told["ResponseType"]: told.get("StatusCode") for told in of_type(template, "AWS::ApiGateway::GatewayResponse")}
    wanted = {"INVALID_API_KEY": "403", "THROTTLED": "429", "QUOTA_EXCEEDED": "429", "REQUEST_TOO_LARGE": "413",
              "INTEGRATION_TIMEOUT": "504", "INTEGRATION_FAILURE": "503", "MISSING_AUTHENTICATION_TOKEN": "404",
              "UNSUPPORTED_MEDIA_TYPE": "415", "DEFAULT_5XX": None}
    assert {kind: statuses[kind] for kind in wanted} == wanted


def a_page_can_read_refusals_and_when_to_come_again(template: Template) -> None:
    for told in of_type(template, "AWS::ApiGateway::GatewayResponse"):
        headers = told["ResponseParameters"]
        assert headers["gatewayresponse.header.Access-Control-Allow-Origin"] == f"'{PAGE}'"
        exposed = headers["gatewayresponse.header.Access-Control-Expose-Headers"].strip("'").split(", ")
        assert {"Retry-After", "Server-Timing"} <= set(exposed)
        assert ("gatewayresponse.header.Retry-After" in headers) == (told.get("StatusCode") in ("429", "503", "504"))


def functions_are_invoked_by_this_stage_of_this_api_alone(template: Template) -> None:
    api, = (name for name, resource in template["Resources"].items() if resource["Type"] == "AWS::ApiGateway::RestApi")
    allowed = of_type(template, "AWS::Lambda::Permission")
    assert len(allowed) == 3
    for told in allowed:
        assert (told["Action"], told["Principal"]) == ("lambda:InvokeFunction", "apigateway.amazonaws.com")
        assert re.search(rf":<{api}>/<ApiDeploymentStage\w+>/\*/\*$", as_text(told.get("SourceArn", "")))
        assert told["SourceAccount"] == {"Ref": "AWS::AccountId"}


def access_logs_are_json_without_bodies_keys_addresses_and_typed_paths(template: Template) -> None:
    stage, = of_type(template, "AWS::ApiGateway::Stage")
    line = json.loads(stage["AccessLogSetting"]["Format"])
    assert {"request_id", "status", "route", "latency_ms", "key_id"} <= line.keys()
    told = {value.removeprefix("$context.") for value in line.values()}
    assert not told & {"identity.apiKey", "path", "identity.sourceIp", "identity.userAgent", "identity.caller"}
    settings, = stage["MethodSettings"]
    assert settings["DataTraceEnabled"] is False
    assert settings["LoggingLevel"] == "ERROR"


def all_that_api_gateway_writes_ends_with_the_stage_s_logs_and_goes_with_the_stage(template: Template) -> None:
    groups = {name: each for name, each in template["Resources"].items() if each["Type"] == "AWS::Logs::LogGroup"}
    assert {(each["Properties"]["RetentionInDays"], each["DeletionPolicy"]) for each in groups.values()} == {(7, "Delete")}
    own = {as_text(each["Properties"].get("LogGroupName", "")): name for name, each in groups.items()}
    api, = (name for name, each in template["Resources"].items() if each["Type"] == "AWS::ApiGateway::RestApi")
    made, = (each for each in template["Resources"].values() if each["Type"] == "AWS::ApiGateway::Stage")
    assert own[f"API-Gateway-Execution-Logs_<{api}>/dev"] in made.get("DependsOn", []), "else API Gateway makes it, for good"


def the_stage_s_limits_hold_for_the_api_and_for_each_key(template: Template) -> None:
    plan, stage = of_type(template, "AWS::ApiGateway::UsagePlan")[0], of_type(template, "AWS::ApiGateway::Stage")[0]
    assert plan["Throttle"] == {"RateLimit": 7, "BurstLimit": 13}
    assert plan["Quota"] == {"Limit": 4711, "Period": "MONTH"}
    settings, = stage["MethodSettings"]
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"], settings["ResourcePath"]) == (7, 13, "/*")
    assert len(of_type(template, "AWS::ApiGateway::UsagePlanKey")) == 1


def no_template_holds_a_key(template: Template) -> None:
    key, = of_type(template, "AWS::ApiGateway::ApiKey")
    assert "Value" not in key


def old_tls_is_refused(template: Template) -> None:
    api, = of_type(template, "AWS::ApiGateway::RestApi")
    assert api["SecurityPolicy"].startswith("SecurityPolicy_TLS13_1_2_")


def stages_of_one_account_are_told_apart_by_the_api_s_name(template: Template) -> None:
    api, = of_type(template, "AWS::ApiGateway::RestApi")
    assert api["Name"] == "shutterless-dev"


def switches_are_off_unless_a_stage_turns_them_on(template: Template) -> None:
    assert of_type(template, "AWS::WAFv2::WebACL") == []
    assert {told["AuthorizationType"] for _, _, told in routes(template)} == {"NONE"}


# Promise -> a piece of infra/api.py, and what breaks it.
BREAKS: dict[Callable[[Template], None], tuple[str, str]] = {
    every_route_of_the_functions_is_there_and_leads_to_its_function: (
        '"/stats": ("query", ("GET",))', '"/stats": ("predict", ("GET",))'),
    any_other_method_gets_the_functions_own_405: ('("ANY",))', '())'),
    only_health_and_preflight_need_no_key: ('OPEN = ("/health",)', 'OPEN = ("/health", "/docs")'),
    pictures_forms_and_bytes_arrive_as_bytes: (', "multipart/form-data", ', ", "),
    preflight_tells_exactly_the_allowed_origins: ("origins = (site.origin, *stage.origins)", "origins = (site.origin,)"),
    preflight_names_the_methods_and_the_key_s_header: ('ASKED = "Content-Type, X-Api-Key"', 'ASKED = "Content-Type"'),
    preflight_survives_a_content_type_that_is_binary: ("content_handling=apigateway.ContentHandling.CONVERT_TO_TEXT, ", ""),
    whatever_api_gateway_refuses_is_a_problem_with_a_sentence: ('"Content-Type": f"\'{CONTENT_TYPE}\'", ', ""),
    refusals_have_the_status_that_the_functions_would_give: (
        '"MISSING_AUTHENTICATION_TOKEN": (404, None)', '"MISSING_AUTHENTICATION_TOKEN": (403, None)'),
    a_page_can_read_refusals_and_when_to_come_again: ("Server-Timing, Retry-After", "Server-Timing"),
    functions_are_invoked_by_this_stage_of_this_api_alone: (
        "source_arn=self.api.arn_for_execute_api(stage=self.api.deployment_stage.stage_name)", "source_arn=None"),
    access_logs_are_json_without_bodies_keys_addresses_and_typed_paths: ('"identity.apiKeyId"', '"identity.apiKey"'),
    all_that_api_gateway_writes_ends_with_the_stage_s_logs_and_goes_with_the_stage: (
        "api.deployment_stage.node.add_dependency(", "str("),
    the_stage_s_limits_hold_for_the_api_and_for_each_key: ("limit=limits.quota_per_month", "limit=100"),
    no_template_holds_a_key: ('add_api_key("Key", ', 'add_api_key("Key", value="k" * 20, '),
    old_tls_is_refused: ('TLS = "SecurityPolicy_TLS13_1_2_PQ_2025_09"', 'TLS = "TLS_1_0"'),
    stages_of_one_account_are_told_apart_by_the_api_s_name: ('rest_api_name=f"shutterless-{stage.name}", ', ""),
    switches_are_off_unless_a_stage_turns_them_on: ("if stage.waf:", "if True:"),
}
OF_EVERY_STAGE = (
    every_route_of_the_functions_is_there_and_leads_to_its_function, any_other_method_gets_the_functions_own_405,
    only_health_and_preflight_need_no_key, pictures_forms_and_bytes_arrive_as_bytes,
    preflight_names_the_methods_and_the_key_s_header, preflight_survives_a_content_type_that_is_binary,
    whatever_api_gateway_refuses_is_a_problem_with_a_sentence,
    refusals_have_the_status_that_the_functions_would_give,
    access_logs_are_json_without_bodies_keys_addresses_and_typed_paths, no_template_holds_a_key, old_tls_is_refused,
    switches_are_off_unless_a_stage_turns_them_on)  # the others compare with what STAGE says
PROMISES = pytest.mark.parametrize("promise", BREAKS, ids=lambda promise: promise.__name__)


@pytest.fixture(scope="module")
def template() -> Template:
    return synthesize()


@PROMISES
def test_it_is_kept(promise, template):
    promise(template)


@PROMISES
def test_it_notices_a_change_that_breaks_it(promise):
    before, after = BREAKS[promise]
    assert SOURCE.count(before) == 1, before
    with pytest.raises(AssertionError):
        promise(synthesize(source=SOURCE.replace(before, after)))


def test_with_both_switches_requests_are_signed_and_the_firewall_lets_pictures_through():
    template = synthesize(GUARDED)
    unsigned = {(method, path) for method, path, told in routes(template) if told["AuthorizationType"] != "AWS_IAM"}
    assert unsigned == {("GET", "/health"), *(("OPTIONS", path) for _, path in doors())}
    acl, = of_type(template, "AWS::WAFv2::WebACL")
    common = next(rule for rule in acl["Rules"] if "Common" in rule["Name"])["Statement"]["ManagedRuleGroupStatement"]
    counted = {rule["Name"] for rule in common["RuleActionOverrides"] if rule["ActionToUse"] == {"Count": {}}}
    assert {"SizeRestrictions_BODY", "CrossSiteScripting_BODY"} <= counted, "these refuse pictures above 8 kB"
    association, = of_type(template, "AWS::WAFv2::WebACLAssociation")
    assert "/stages/<ApiDeploymentStage" in as_text(association["ResourceArn"])


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_its_api_behind_its_functions(stage):
    template = synthesized(stage).templates["Api"]
    for promise in OF_EVERY_STAGE:
        promise(template)
    every = of_type(template, "AWS::Lambda::Permission")
    assert {re.search(r"FnGetAtt(Upload|Query|Predict)|Ref(Upload|Query|Predict)", as_text(told["FunctionName"]))[0][-5:]
            for told in every} == {"pload", "Query", "edict"}
    assert of_type(template, "AWS::ApiGateway::Stage")[0]["StageName"] == stage


def test_the_role_for_logs_is_shared_and_outlives_every_stage():
    account = synthesized("dev").templates["Account"]
    assert {resource["Type"] for resource in account["Resources"].values()} == {"AWS::IAM::Role", "AWS::ApiGateway::Account"}
    assert all(synthesized(stage).templates["Account"] == account for stage in STAGES)


def test_a_role_for_logs_that_others_made_stays_the_account_s():
    app, role = cdk.App(analytics_reporting=False), "arn:aws:iam::123456789012:role/others"
    AccountStack(app, "Account", log_role=role)
    resources = app.synth().get_stack_artifact("Account").template["Resources"].values()
    assert [each for each in resources if each["Type"].startswith(("AWS::IAM", "AWS::Api"))] == [
        {"Type": "AWS::ApiGateway::Account", "Properties": {"CloudWatchRoleArn": role}}]
