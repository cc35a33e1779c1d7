"""A network without a way out: isolated subnets, and S3 by its free gateway. No NAT, no paid endpoint, no internet."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.exempt import Exempt

POSTGRES_PORT = 5432
POSTGRES, HTTPS = ec2.Port.tcp(POSTGRES_PORT), ec2.Port.tcp(443)


EXEMPT = (
    Exempt("VPC7", ("Data/Network/Vpc",),
           "Flow logs of a network without a way out could only tell of functions that ask PostgreSQL and S3, and would cost "
           "more than all else that is logged."),
)


class Network(Construct):
    """vpc: two subnets in two zones, as RDS wants. functions, databases: security groups; the first may call the second and S3,
    and nobody calls the first. buckets: all that can be reached in S3, beside the one where CloudFormation waits for answers."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self.vpc = ec2.Vpc(
            self, "Vpc", ip_addresses=ec2.IpAddresses.cidr("10.0.0.0/24"), max_azs=2, nat_gateways=0,
            create_internet_gateway=False, restrict_default_security_group=False,  # that is a function of its own; nobody uses it
            subnet_configuration=[ec2.SubnetConfiguration(name="Isolated", cidr_mask=26,
                                                          subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)])
        self.s3 = self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        self.functions = self._group("Functions", "Functions that call PostgreSQL and S3")
        self.databases = self._group("Databases", "PostgreSQL, for the functions alone")
        self.functions.add_egress_rule(ec2.Peer.any_ipv4(), HTTPS, "S3: the only route out of the subnets")
        self.functions.add_egress_rule(self.databases, POSTGRES, "PostgreSQL")
        self.databases.add_ingress_rule(self.functions, POSTGRES, "PostgreSQL")

    def open_buckets(self, *arns: str) -> None:
        """What the gateway to S3 lets through: these buckets, and the answers of custom resources to CloudFormation.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cfn-vpce-bucketnames.html
        """
        partition = Stack.of(self).partition
        everyone = [iam.AnyPrincipal()]
        self.s3.add_to_policy(iam.PolicyStatement(
            principals=everyone, actions=["s3:GetObject*", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket*"],
            resources=[each for arn in arns for each in (arn, f"{arn}/*")]))
        self.s3.add_to_policy(iam.PolicyStatement(
            principals=everyone, actions=["s3:PutObject"],
            resources=[f"arn:{partition}:s3:::cloudformation-custom-resource-response-*/*"]))

    def _group(self, construct_id: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(self, construct_id, vpc=self.vpc, description=description, allow_all_outbound=False)
