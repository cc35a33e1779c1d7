"""The page: a private bucket, read by CloudFront alone. `make deploy` puts the built page there, after all else."""

from __future__ import annotations

from typing import Any

from aws_cdk import CfnOutput, Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.exempt import NO_ACCESS_LOG, Exempt
from infra.stages import Stage

POLICY = ("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data: https:; "
          "connect-src 'self' https:; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
          "frame-ancestors 'none'")


EXEMPT = (
    Exempt("S1", ("Site/Page",), NO_ACCESS_LOG),
    Exempt("CFR1", ("Site/Distribution",), "The page may be seen from every country. What it asks needs a key."),
    Exempt("CFR2", ("Site/Distribution",),
           "CloudFront serves a few static files from its cache; nothing is behind it to attack. The switch waf guards the API."),
    Exempt("CFR3", ("Site/Distribution",), "Who looks at a static page is not recorded, as nobody needs to know."),
    Exempt("CFR4", ("Site/Distribution",),
           "With CloudFront's own domain name, AWS fixes the oldest protocol at TLS 1.0. A domain of one's own, with its "
           "certificate, would bring TLS 1.2 into force."),
)


class SiteStack(Stack):
    """bucket: the page's files. distribution: CloudFront; `origin` is what browsers send in Origin."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, **settings: Any) -> None:
        super().__init__(scope, construct_id, **settings)
        self.bucket = s3.Bucket(
            self, "Page", enforce_ssl=True, minimum_tls_version=1.2, block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED, removal_policy=RemovalPolicy.DESTROY)
        self.distribution = cloudfront.Distribution(
            self, "Distribution", comment=f"Shutterless {stage.name}", default_root_object="index.html",
            http_version=cloudfront.HttpVersion.HTTP2_AND_3, price_class=cloudfront.PriceClass.PRICE_CLASS_100,
            default_behavior=cloudfront.BehaviorOptions(
                origin=origins.S3BucketOrigin.with_origin_access_control(self.bucket),
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS, compress=True,
                cache_policy=cloudfront.CachePolicy.CACHING_OPTIMIZED,
                response_headers_policy=self._headers()))
        self.origin = f"https://{self.distribution.distribution_domain_name}"
        CfnOutput(self, "PageUrl", value=self.origin)
        CfnOutput(self, "PageBucket", value=self.bucket.bucket_name)
        CfnOutput(self, "DistributionId", value=self.distribution.distribution_id)

    def _headers(self) -> cloudfront.ResponseHeadersPolicy:
        year = Duration.days(365)
        return cloudfront.ResponseHeadersPolicy(
            self, "Headers",
            security_headers_behavior=cloudfront.ResponseSecurityHeadersBehavior(
                content_security_policy=cloudfront.ResponseHeadersContentSecurityPolicy(
                    content_security_policy=POLICY, override=True),
                content_type_options=cloudfront.ResponseHeadersContentTypeOptions(override=True),
                frame_options=cloudfront.ResponseHeadersFrameOptions(
                    frame_option=cloudfront.HeadersFrameOption.DENY, override=True),
                referrer_policy=cloudfront.ResponseHeadersReferrerPolicy(
                    referrer_policy=cloudfront.HeadersReferrerPolicy.NO_REFERRER, override=True),
                strict_transport_security=cloudfront.ResponseHeadersStrictTransportSecurity(
                    access_control_max_age=year, include_subdomains=True, override=True)))
