"""PostgreSQL in the isolated subnets: encrypted, TLS only, and open to IAM alone, its master included. No password exists.

An instance, or Aurora Serverless v2; before either, RDS Proxy where a stage has it.
"""

from __future__ import annotations

from typing import Any

from aws_cdk import ArnFormat, CfnResource, Fn, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_rds as rds
from constructs import Construct

from infra.network import Network
from infra.stages import Stage

NAME = "shutterless"  # of the database in the server
OWNER = "shutterless_owner"  # the master user, whom only the function migrate is
CA = "rds-ca-rsa2048-g1"  # https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html
READER = "shutterless_reader"  # an operator's questions, which the function migrate asks
DIRECT = (OWNER, READER)  # who do not go through a pool of connections
USERS = ("shutterless_upload", "shutterless_query", "shutterless_infer", *DIRECT)


class Postgres(Construct):
    """host: what functions connect to. identifier: what CloudWatch calls it, under `dimension`."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, network: Network) -> None:
        super().__init__(scope, construct_id)
        self._stage, self._network = stage, network
        self._subnets = rds.CfnDBSubnetGroup(
            self, "Subnets", db_subnet_group_description="The isolated subnets",
            subnet_ids=[subnet.subnet_id for subnet in network.vpc.isolated_subnets])
        self.is_cluster = stage.database.aurora is not None
        self.dimension = "DBClusterIdentifier" if self.is_cluster else "DBInstanceIdentifier"
        self.resource: CfnResource
        if self.is_cluster:
            cluster = self._cluster()
            self.resource, self.identifier = cluster, cluster.ref
            self.host, self._login_id = cluster.attr_endpoint_address, cluster.attr_db_cluster_resource_id
        else:
            instance = self._instance()
            self.resource, self.identifier = instance, instance.ref
            self.host, self._login_id = instance.attr_endpoint_address, instance.attr_dbi_resource_id
        self.direct_host, self._proxy_id = self.host, ""
        if stage.database.proxy:
            proxy = self._proxy()
            self.host = proxy.attr_endpoint
            self._proxy_id = Fn.select(6, Fn.split(":", proxy.attr_db_proxy_arn))

    def url(self, user: str) -> str:
        """For DATABASE_URL. The owner changes the schema, for which it does not go through a pool of connections."""
        password = f":{self._stage.database.password}" if self._stage.database.password else ""
        return f"postgresql://{user}{password}@{self.direct_host if user in DIRECT else self.host}:5432/{NAME}"

    def grant_connect(self, role: iam.IRole, user: str) -> None:
        """That this role may log in as this user, where IAM decides."""
        if self._stage.iam_database:
            door = self._proxy_id if self._proxy_id and user not in DIRECT else self._login_id
            role.add_to_principal_policy(iam.PolicyStatement(actions=["rds-db:connect"], resources=[self._user_arn(door, user)]))

    def _user_arn(self, door: str, user: str) -> str:
        return Stack.of(self).format_arn(service="rds-db", resource="dbuser", resource_name=f"{door}/{user}",
                                         arn_format=ArnFormat.COLON_RESOURCE_NAME)

    def _shared(self) -> dict[str, Any]:
        """What instance and cluster have in common."""
        wanted = self._stage.database
        login = ({"master_user_authentication_type": "iam-db-auth", "enable_iam_database_authentication": True}
                 if wanted.password is None else {"master_user_password": wanted.password})
        return {"engine_version": wanted.engine, "master_username": OWNER, "storage_encrypted": True,
                "backup_retention_period": wanted.backup_days, "deletion_protection": wanted.is_protected,
                "db_subnet_group_name": self._subnets.ref, "copy_tags_to_snapshot": True, **login}

    def _parameters(self) -> dict[str, str]:
        return {"rds.force_ssl": "1", "max_connections": str(self._stage.database.max_connections)}

    def _instance(self) -> rds.CfnDBInstance:
        wanted = self._stage.database
        parameters = rds.CfnDBParameterGroup(self, "Parameters", family=f"postgres{wanted.engine}", parameters=self._parameters(),
                                             description="TLS only, and a known number of connections")
        instance = rds.CfnDBInstance(
            self, "Instance", engine="postgres", db_name=NAME, db_instance_class=wanted.instance,
            allocated_storage=str(wanted.storage_gb), max_allocated_storage=wanted.max_storage_gb, storage_type="gp3",
            db_parameter_group_name=parameters.ref, publicly_accessible=False, multi_az=wanted.in_two_zones,
            ca_certificate_identifier=CA, auto_minor_version_upgrade=True, delete_automated_backups=not self._stage.keeps_data,
            vpc_security_groups=[self._network.databases.security_group_id],
            **self._shared())
        instance.apply_removal_policy(self._removal())
        # RDS takes a major version for its newest minor one; cfn-lint knows the minor ones only. The password is the emulator's.
        instance.add_metadata("cfn-lint", {"config": {"ignore_checks": ["W3691", *(["W2501"] if wanted.password else [])]}})
        return instance

    def _cluster(self) -> rds.CfnDBCluster:
        wanted, aurora = self._stage.database, self._stage.database.aurora
        assert aurora  # noqa: S101  who calls has looked
        parameters = rds.CfnDBClusterParameterGroup(self, "Parameters", family=f"aurora-postgresql{wanted.engine}",
                                                    parameters=self._parameters(),
                                                    description="TLS only, and a known number of connections")
        scaling = rds.CfnDBCluster.ServerlessV2ScalingConfigurationProperty(
            min_capacity=aurora.min_units, max_capacity=aurora.max_units,
            seconds_until_auto_pause=None if aurora.min_units else aurora.pause_after_s)
        cluster = rds.CfnDBCluster(self, "Cluster", engine="aurora-postgresql", database_name=NAME,
                                   db_cluster_parameter_group_name=parameters.ref,
                                   vpc_security_group_ids=[self._network.databases.security_group_id],
                                   serverless_v2_scaling_configuration=scaling, **self._shared())
        cluster.apply_removal_policy(self._removal())
        for name in ("Writer", "Reader") if wanted.in_two_zones else ("Writer",):
            instance = rds.CfnDBInstance(self, name, engine="aurora-postgresql", db_instance_class="db.serverless",
                                         db_cluster_identifier=cluster.ref, publicly_accessible=False,
                                         ca_certificate_identifier=CA, auto_minor_version_upgrade=True)
            instance.apply_removal_policy(RemovalPolicy.DESTROY)
        return cluster

    def _proxy(self) -> rds.CfnDBProxy:
        """Functions log in to the proxy, and it to the database, both by IAM."""
        network = self._network
        group = ec2.SecurityGroup(self, "ProxyGroup", vpc=network.vpc, description="RDS Proxy", allow_all_outbound=False)
        network.allow(network.functions, group)
        network.allow(group, network.databases)
        role = iam.Role(self, "ProxyRole", assumed_by=iam.ServicePrincipal("rds.amazonaws.com"),
                        description="RDS Proxy: logs in to the database as the functions' users")
        role.add_to_policy(iam.PolicyStatement(actions=["rds-db:connect"], resources=[
            self._user_arn(self._login_id, user) for user in USERS if user not in DIRECT]))
        subnets = [subnet.subnet_id for subnet in network.vpc.isolated_subnets]
        proxy = rds.CfnDBProxy(self, "Proxy", db_proxy_name=f"shutterless-{self._stage.name}", engine_family="POSTGRESQL",
                               default_auth_scheme="IAM_AUTH", require_tls=True, role_arn=role.role_arn, vpc_subnet_ids=subnets,
                               vpc_security_group_ids=[group.security_group_id])
        target = ({"db_cluster_identifiers": [self.identifier]} if self.is_cluster
                  else {"db_instance_identifiers": [self.identifier]})
        rds.CfnDBProxyTargetGroup(self, "ProxyTarget", db_proxy_name=proxy.ref, target_group_name="default", **target)
        return proxy

    def _removal(self) -> RemovalPolicy:
        return RemovalPolicy.SNAPSHOT if self._stage.keeps_data else RemovalPolicy.DESTROY
