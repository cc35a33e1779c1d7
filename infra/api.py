"""The REST API: routes to functions, keys, limits, and errors that look as the functions' own do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.exempt import Exempt
from infra.firewall import Firewall
from infra.functions import RETENTION
from shutterless.formats import FORMATS
from shutterless.problems import CONTENT_TYPE, PHRASES, SENTENCES

if TYPE_CHECKING:
    from infra.service import ServiceStack
    from infra.site import SiteStack
    from infra.stages import Stage

# Path -> the function that answers, and its methods. Any other method goes to the same function, which says 405.
ROUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "/upload-image": ("upload", ("POST",)),
    "/uploads": ("upload", ("POST",)),
    "/results": ("query", ("GET",)),
    "/results/{request_id}": ("query", ("DELETE",)),
    "/results/{request_id}/image": ("query", ("GET",)),
    "/stats": ("query", ("GET",)),
    "/predict": ("predict", ("POST",)),
    "/models": ("predict", ("GET",)),
    "/health": ("predict", ("GET",)),
    "/openapi.json": ("predict", ("GET",)),
    "/docs": ("predict", ("GET",)),
}
OPEN = ("/health",)  # without key or signature
BINARY = (*(format.content_type for format in FORMATS), "multipart/form-data", "application/octet-stream")
TIMEOUT = cdk.Duration.seconds(29)  # the longest that API Gateway waits without a raised quota
TLS = "SecurityPolicy_TLS13_1_2_PQ_2025_09"  # 1.2 and 1.3
EXPOSED = "X-Request-Id, Server-Timing, Retry-After"
ASKED = "Content-Type, X-Api-Key"
SIGNED = "Authorization, X-Amz-Date, X-Amz-Security-Token, X-Amz-Content-Sha256"  # what signed requests bring beside these
PREFLIGHT_S = 600  # how long a browser may remember its answer
FIVE_MIN_S = 300
RETRY_S = {429: 1, 503: 1, 504: 5}

# What API Gateway says itself, before a function is asked or when none answers: status, and the sentence where it is not
# that of shutterless.problems.
REFUSALS: dict[str, tuple[int, str | None]] = {
    "ACCESS_DENIED": (403, "This is not allowed. Ask the operator for a role that may call execute-api:Invoke here."),
    "API_CONFIGURATION_ERROR": (500, None),
    "AUTHORIZER_CONFIGURATION_ERROR": (500, None),
    "AUTHORIZER_FAILURE": (500, None),
    "BAD_REQUEST_BODY": (400, None),
    "BAD_REQUEST_PARAMETERS": (400, None),
    "EXPIRED_TOKEN": (403, "The signature is too old. Set the clock, and sign the request again."),
    "INTEGRATION_FAILURE": (503, None),
    "INTEGRATION_TIMEOUT": (504, None),
    "INVALID_API_KEY": (403, None),
    "INVALID_SIGNATURE": (403, "The signature does not fit. Sign the request with AWS Signature Version 4, service execute-api."),
    "MISSING_AUTHENTICATION_TOKEN": (404, None),
    "QUOTA_EXCEEDED": (429, "The quota of this API key is used up. Ask the operator for more, or wait until it begins anew."),
    "REQUEST_TOO_LARGE": (413, "The request has more bytes than the API takes. Send the picture by POST /uploads."),
    "RESOURCE_NOT_FOUND": (404, None),
    "THROTTLED": (429, None),
    "UNAUTHORIZED": (401, "The request is not signed. Sign it with AWS Signature Version 4, service execute-api."),
    "UNSUPPORTED_MEDIA_TYPE": (415, None),
    "WAF_FILTERED": (403, "The firewall refused the request. Send less at once; if it stays, tell the operator the request_id."),
}
UNSIGNED = "There is nothing at this address, or the request is not signed (AWS Signature Version 4, service execute-api)."
OTHERWISE = {"DEFAULT_4XX": SENTENCES[400], "DEFAULT_5XX": SENTENCES[503]}


EXEMPT = (
    Exempt("APIG2", ("Api/Api",),
           "API Gateway can validate JSON, and bodies here are pictures and forms. The functions validate all of it, and answer "
           "with a sentence that says what is wrong."),
    Exempt("APIG3", ("Api/Api",), "A firewall costs 9 dollars a month before the first request: the switch waf turns it on."),
    Exempt("APIG4", ("Api/Api/Default",),
           "Keys with a usage plan let clients in; the switch iam_auth asks for signed requests as well. /health is open, as it "
           "tells nothing but that it is there."),
    Exempt("COG4", ("Api/Api/Default",), "Clients are programs with a key, not people with a password."),
)


class ApiStack(cdk.Stack):
    """One REST API for a stage: `.api`, the default `.key`, its `.usage_plan`, and `.url`, without a slash at its end.

    site: whose page may call, beside the stage's own origins.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, service: ServiceStack, site: SiteStack,
                 **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        origins = (site.origin, *stage.origins)
        self.api = self._rest_api(stage)
        called = {name: service.workers[name].called_arn for name, _ in ROUTES.values()}
        for path, (name, methods) in ROUTES.items():
            self._route(path, methods, called[name], origins=origins, iam_auth=stage.iam_auth)
        for name, arn in called.items():
            self._allow(name, arn)
        self._refuse(origins, iam_auth=stage.iam_auth)
        self.usage_plan, self.key = self._keys(stage)
        if stage.waf:
            Firewall(self, "Firewall", rate_per_5_min=FIVE_MIN_S * stage.throttle.rate_per_s,
                     guarded_arn=self.api.deployment_stage.stage_arn)
        self.url = self.api.url_for_path("/").removesuffix("/")
        cdk.CfnOutput(self, "Url", value=self.url, description="Where clients ask")
        cdk.CfnOutput(self, "KeyId", value=self.key.key_id,
                      description="The key itself: aws apigateway get-api-key --include-value --query value --api-key KEY_ID")

    def _rest_api(self, stage: Stage) -> apigateway.RestApi:
        limits = stage.throttle
        kept: dict[str, Any] = {"retention": RETENTION[stage.log_days], "removal_policy": cdk.RemovalPolicy.DESTROY}
        lines = logs.LogGroup(self, "Access", **kept)
        api = apigateway.RestApi(
            self, "Api", rest_api_name=f"shutterless-{stage.name}", description=f"Shutterless {stage.name}",
            binary_media_types=list(BINARY),
            endpoint_types=[apigateway.EndpointType.REGIONAL], cloud_watch_role=False,
            deploy_options=apigateway.StageOptions(
                stage_name=stage.name, throttling_rate_limit=limits.rate_per_s, throttling_burst_limit=limits.burst,
                logging_level=apigateway.MethodLoggingLevel.ERROR, data_trace_enabled=False, metrics_enabled=False,
                access_log_destination=apigateway.LogGroupLogDestination(lines), access_log_format=access_log_format()))
        bare = cast(apigateway.CfnRestApi, api.node.default_child)
        bare.security_policy, bare.endpoint_access_mode = TLS, "BASIC"
        # API Gateway writes its errors under this name, and would make the group itself, without an end and for good.
        name = f"API-Gateway-Execution-Logs_{api.rest_api_id}/{stage.name}"
        api.deployment_stage.node.add_dependency(logs.LogGroup(self, "Errors", log_group_name=name, **kept))
        return api

    def _route(self, path: str, methods: Sequence[str], function_arn: str, *, origins: Sequence[str], iam_auth: bool) -> None:
        resource = self.api.root.resource_for_path(path)
        is_open = path in OPEN
        integration = apigateway.Integration(
            type=apigateway.IntegrationType.AWS_PROXY, integration_http_method="POST", uri=self._invocation(function_arn),
            options=apigateway.IntegrationOptions(timeout=TIMEOUT))
        signed = apigateway.AuthorizationType.IAM if iam_auth and not is_open else apigateway.AuthorizationType.NONE
        for method in (*methods, *(() if is_open else ("ANY",))):
            resource.add_method(method, integration, api_key_required=not is_open, authorization_type=signed)
        add_preflight(resource, methods, origins, asked=f"{ASKED}, {SIGNED}" if iam_auth else ASKED)

    def _invocation(self, function_arn: str) -> str:
        """The address under which API Gateway invokes a function, or its alias."""
        return f"arn:{self.partition}:apigateway:{self.region}:lambda:path/2015-03-31/functions/{function_arn}/invocations"

    def _allow(self, name: str, function_arn: str) -> None:
        """This API, in this stage, and nobody else."""
        lambda_.CfnPermission(
            self, f"{name.title()}Permission", action="lambda:InvokeFunction", function_name=function_arn,
            principal="apigateway.amazonaws.com", source_account=self.account,
            source_arn=self.api.arn_for_execute_api(stage=self.api.deployment_stage.stage_name))

    def _refuse(self, origins: Sequence[str], *, iam_auth: bool) -> None:
        """These answers know only fixed headers, so of several origins they can name but the first."""
        refusals = {**REFUSALS, **({"MISSING_AUTHENTICATION_TOKEN": (403, UNSIGNED)} if iam_auth else {})}
        for kind, (status, sentence) in refusals.items():
            self.api.add_gateway_response(
                kind.title().replace("_", ""), type=apigateway.ResponseType.of(kind), status_code=str(status),
                response_headers=refusal_headers(origins[0], RETRY_S.get(status)),
                templates={"application/json": refusal_body(sentence or SENTENCES[status], status)})
        for kind, sentence in OTHERWISE.items():
            self.api.add_gateway_response(
                kind.title().replace("_", ""), type=apigateway.ResponseType.of(kind),
                response_headers=refusal_headers(origins[0], None),
                templates={"application/json": refusal_body(sentence)})

    def _keys(self, stage: Stage) -> tuple[apigateway.UsagePlan, apigateway.IApiKey]:
        """A key that API Gateway makes up: no template, log or output holds it."""
        limits = stage.throttle
        plan = self.api.add_usage_plan(
            "Plan", throttle=apigateway.ThrottleSettings(rate_limit=limits.rate_per_s, burst_limit=limits.burst),
            quota=apigateway.QuotaSettings(limit=limits.quota_per_month, period=apigateway.Period.MONTH),
            api_stages=[apigateway.UsagePlanPerApiStage(api=self.api, stage=self.api.deployment_stage)])
        key = self.api.add_api_key("Key", description=f"Shutterless {stage.name}: the first client")
        plan.add_api_key(key)
        return plan, key


def add_preflight(resource: apigateway.Resource, methods: Sequence[str], origins: Sequence[str], *, asked: str) -> None:
    """OPTIONS without a key, answered by API Gateway itself: exactly these origins are told that they may ask.

    CONVERT_TO_TEXT, since a preflight that says it brings a picture would be binary, and a mock fails on that.
    """
    mock = apigateway.MockIntegration(
        content_handling=apigateway.ContentHandling.CONVERT_TO_TEXT, passthrough_behavior=apigateway.PassthroughBehavior.NEVER,
        request_templates=dict.fromkeys(("application/json", *BINARY), '{"statusCode": 204}'),
        integration_responses=[apigateway.IntegrationResponse(
            status_code="204", response_templates={"application/json": _tell_origin(origins)},
            response_parameters={f"method.response.header.{name}": f"'{value}'" for name, value in {
                "Access-Control-Allow-Headers": asked, "Access-Control-Allow-Methods": ", ".join(methods),
                "Access-Control-Max-Age": PREFLIGHT_S, "Vary": "Origin"}.items()})])
    headers = ("Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Max-Age", "Vary")
    resource.add_method(
        "OPTIONS", mock, api_key_required=False, authorization_type=apigateway.AuthorizationType.NONE,
        method_responses=[apigateway.MethodResponse(
            status_code="204", response_parameters={f"method.response.header.{name}": True for name in headers})])


def _tell_origin(origins: Sequence[str]) -> str:
    """A mapping template (VTL) that sends back the origin that asks, if it is one of these, whatever the header's case."""
    known = " || ".join(f'$origin == "{origin}"' for origin in origins)
    return "\n".join(['#set($origin = $input.params().header.get("Origin"))',
                      '#if(!$origin)#set($origin = $input.params().header.get("origin"))#end',
                      f"#if({known})", "#set($context.responseOverride.header.Access-Control-Allow-Origin = $origin)", "#end"])


def refusal_headers(origin: str, retry_s: int | None) -> dict[str, str]:
    """Fixed values stand in quotes."""
    again = {"Retry-After": f"'{retry_s}'"} if retry_s else {}
    return {"Content-Type": f"'{CONTENT_TYPE}'", "Access-Control-Allow-Origin": f"'{origin}'", "Vary": "'Origin'",
            "Access-Control-Expose-Headers": f"'{EXPOSED}'", **again}


def refusal_body(sentence: str, status: int | None = None) -> str:
    """RFC 9457, as shutterless.problems writes it. Without a status where API Gateway may use any."""
    told = {"type": "about:blank", "title": PHRASES[status], "status": status} if status else {"type": "about:blank",
                                                                                               "title": "Error"}
    return json.dumps({**told, "detail": sentence, "request_id": "$context.requestId"})


def access_log_format() -> apigateway.AccessLogFormat:
    """One JSON line per request. The route instead of the path, and the key's id: nothing that a client sent, no address."""
    fields = {"request_id": "requestId", "time": "requestTime", "method": "httpMethod", "route": "resourcePath",
              "status": "status", "bytes": "responseLength", "latency_ms": "responseLatency",
              "integration_ms": "integrationLatency", "integration_status": "integrationStatus",
              "aws_request_id": "integration.requestId", "refusal": "error.responseType", "key_id": "identity.apiKeyId",
              "firewall": "wafResponseCode"}
    return apigateway.AccessLogFormat.custom(json.dumps({name: f"$context.{value}" for name, value in fields.items()}))
