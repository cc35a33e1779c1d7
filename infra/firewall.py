"""The switch `waf`: AWS's firewall before the API, made so that it lets pictures through."""

from __future__ import annotations

from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

# Rules of AWS's common set that read the body. It holds at most 8 kB of it to be plausible text, and no picture is either.
BODY_RULES = ("SizeRestrictions_BODY", "CrossSiteScripting_BODY", "GenericLFI_BODY", "GenericRFI_BODY", "EC2MetaDataSSRF_BODY")


class Firewall(Construct):
    """Addresses of ill repute, known attacks, and more than `rate_per_5_min` requests of one address are refused (403)."""

    def __init__(self, scope: Construct, construct_id: str, *, rate_per_5_min: int, guarded_arn: str) -> None:
        super().__init__(scope, construct_id)
        acl = wafv2.CfnWebACL(
            self, "Acl", scope="REGIONAL", default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            visibility_config=_seen("All"), rules=[
                _managed(0, "AWSManagedRulesAmazonIpReputationList"),
                _managed(1, "AWSManagedRulesKnownBadInputsRuleSet"),
                _managed(2, "AWSManagedRulesCommonRuleSet", only_counted=BODY_RULES),
                wafv2.CfnWebACL.RuleProperty(
                    name="Rate", priority=3, action=wafv2.CfnWebACL.RuleActionProperty(block={}), visibility_config=_seen("Rate"),
                    statement=wafv2.CfnWebACL.StatementProperty(
                        rate_based_statement=wafv2.CfnWebACL.RateBasedStatementProperty(
                            aggregate_key_type="IP", limit=rate_per_5_min)))])
        wafv2.CfnWebACLAssociation(self, "Association", resource_arn=guarded_arn, web_acl_arn=acl.attr_arn)


def _managed(priority: int, name: str, *, only_counted: tuple[str, ...] = ()) -> wafv2.CfnWebACL.RuleProperty:
    count = wafv2.CfnWebACL.RuleActionProperty(count={})
    overrides = [wafv2.CfnWebACL.RuleActionOverrideProperty(name=rule, action_to_use=count) for rule in only_counted]
    return wafv2.CfnWebACL.RuleProperty(
        name=name, priority=priority, override_action=wafv2.CfnWebACL.OverrideActionProperty(none={}),
        visibility_config=_seen(name),
        statement=wafv2.CfnWebACL.StatementProperty(
            managed_rule_group_statement=wafv2.CfnWebACL.ManagedRuleGroupStatementProperty(
                vendor_name="AWS", name=name, rule_action_overrides=overrides or None)))


def _seen(name: str) -> wafv2.CfnWebACL.VisibilityConfigProperty:
    return wafv2.CfnWebACL.VisibilityConfigProperty(cloud_watch_metrics_enabled=True, metric_name=name,
                                                    sampled_requests_enabled=True)
