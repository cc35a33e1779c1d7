"""The switch database.proxy: RDS Proxy between the functions and PostgreSQL.

It stands in the functions' stack, not beside the database: no other stack then imports anything of it, so that it can be turned
off as well as on.
"""

from __future__ import annotations

from aws_cdk import Fn
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_rds as rds
from constructs import Construct

from infra.database import DIRECT, USERS, Postgres
from infra.network import POSTGRES_PORT, Network
from infra.stages import Stage


class Proxy(Construct):
    """Functions log in to the proxy, and it to the database, both by IAM. host, login_id: as Postgres has them."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, database: Postgres, network: Network) -> None:
        super().__init__(scope, construct_id)
        self._network = network
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("rds.amazonaws.com"),
                        description="RDS Proxy: logs in to the database as the functions' users")
        for user in USERS:
            if user not in DIRECT:
                database.grant_connect(role, user)
        proxy = rds.CfnDBProxy(
            self, "Proxy", db_proxy_name=f"shutterless-{stage.name}", engine_family="POSTGRESQL",
            default_auth_scheme="IAM_AUTH", require_tls=True, role_arn=role.role_arn,
            vpc_subnet_ids=[subnet.subnet_id for subnet in network.vpc.isolated_subnets],
            vpc_security_group_ids=[self._group().security_group_id])
        target = "db_cluster_identifiers" if database.is_cluster else "db_instance_identifiers"
        rds.CfnDBProxyTargetGroup(self, "Target", db_proxy_name=proxy.ref, target_group_name="default",
                                  **{target: [database.identifier]})
        self.host = proxy.attr_endpoint
        self.login_id = Fn.select(6, Fn.split(":", proxy.attr_db_proxy_arn))

    def _group(self) -> ec2.SecurityGroup:
        """functions -> proxy -> database. The rules stand here, since those groups' own stack must not know of this one."""
        functions, databases = self._network.functions, self._network.databases
        group = ec2.SecurityGroup(self, "Group", vpc=self._network.vpc, description="RDS Proxy", allow_all_outbound=False)
        for name, caller, called in (("ToProxy", functions, group), ("ToDatabase", group, databases)):
            ports = {"ip_protocol": "tcp", "from_port": POSTGRES_PORT, "to_port": POSTGRES_PORT, "description": "PostgreSQL"}
            ec2.CfnSecurityGroupEgress(self, name, group_id=caller.security_group_id,
                                       destination_security_group_id=called.security_group_id, **ports)
            ec2.CfnSecurityGroupIngress(self, f"{name}In", group_id=called.security_group_id,
                                        source_security_group_id=caller.security_group_id, **ports)
        return group

