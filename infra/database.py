"""PostgreSQL in the isolated subnets: encrypted, TLS only, and open to IAM alone, its master included. No password exists.

An instance, or Aurora Serverless v2.
"""

from __future__ import annotations

from typing import Any, Protocol

from aws_cdk import ArnFormat, CfnResource, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_rds as rds
from constructs import Construct

from infra.exempt import Exempt
from infra.network import Network
from infra.stages import Stage

NAME = "shutterless"  # of the database in the server
OWNER = "shutterless_owner"  # the master user, whom only the function migrate is
CA = "rds-ca-rsa2048-g1"  # https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html
READER = "shutterless_reader"  # an operator's questions, which the function migrate asks
DIRECT = (OWNER, READER)  # who do not go through a pool of connections
USERS = ("shutterless_upload", "shutterless_query", "shutterless_infer", *DIRECT)


EXEMPT = (
    Exempt("RDS3", ("Data/Database",), "A second zone doubles the price: prod has it, the small stages have not."),
    Exempt("RDS10", ("Data/Database",), "Only prod is protected: make destroy has to take the small stages away."),
    Exempt("RDS11", ("Data/Database",),
           "The port is the usual one: nobody but the functions reaches the subnets, and another number would hide nothing."),
    Exempt("RDS13", ("Data/Database",), "The rehearsal's database lives for minutes, on one machine. All others have backups."),
    Exempt("CloudFormation-Validate::W2501", ("Data/Database",),
           "The emulator knows no login by IAM, so the rehearsal has a password, which opens nothing but its own container. "
           "infra/stages.py refuses one to every other stage."),
)


class Door(Protocol):
    """What is logged in to: the database, or the proxy before it. login_id: what IAM calls it."""

    host: str
    login_id: str


class Postgres(Construct):
    """host, login_id: as a Door has them. identifier: what CloudWatch calls it, under `dimension`."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, network: Network) -> None:
        super().__init__(scope, construct_id)
        self._stage, self._network = stage, network
        self.host: str
        self.login_id: str
        self._subnets = rds.CfnDBSubnetGroup(
            self, "Subnets", db_subnet_group_description="The isolated subnets",
            subnet_ids=[subnet.subnet_id for subnet in network.vpc.isolated_subnets])
        self.is_cluster = stage.database.aurora is not None
        self.dimension = "DBClusterIdentifier" if self.is_cluster else "DBInstanceIdentifier"
        self.resource: CfnResource
        if self.is_cluster:
            cluster = self._cluster()
            self.resource, self.identifier = cluster, cluster.ref
            self.host, self.login_id = cluster.attr_endpoint_address, cluster.attr_db_cluster_resource_id
        else:
            instance = self._instance()
            self.resource, self.identifier = instance, instance.ref
            self.host, self.login_id = instance.attr_endpoint_address, instance.attr_dbi_resource_id

    def url(self, user: str, door: Door | None = None) -> str:
        """For DATABASE_URL, of this user at the database itself or at a door before it."""
        password = f":{self._stage.database.password}" if self._stage.database.password else ""
        return f"postgresql://{user}{password}@{(door or self).host}:5432/{NAME}"

    def grant_connect(self, role: iam.Role, user: str, door: Door | None = None) -> None:
        """That this role may log in as this user there, where IAM decides."""
        if self._stage.iam_database:
            name = f"{(door or self).login_id}/{user}"
            arn = Stack.of(role).format_arn(service="rds-db", resource="dbuser", resource_name=name,
                                            arn_format=ArnFormat.COLON_RESOURCE_NAME)
            role.add_to_policy(iam.PolicyStatement(actions=["rds-db:connect"], resources=[arn]))

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
            ca_certificate_identifier=CA, auto_minor_version_upgrade=True,
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

    def _removal(self) -> RemovalPolicy:
        return RemovalPolicy.SNAPSHOT if self._stage.keeps_data else RemovalPolicy.DESTROY
