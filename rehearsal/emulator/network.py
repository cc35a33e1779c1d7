"""EC2: a VPC tells its address range; rules of security groups are kept where they are declared beside their group."""

from __future__ import annotations

import uuid

from ministack.services.cloudformation import provisioners

from rehearsal.emulator.handlers import Create, Made, Properties, add, add_attributes

EC2 = provisioners._ec2


def complete() -> None:
    """AWS::EC2::VPC, SecurityGroupIngress, SecurityGroupEgress."""
    add_attributes("AWS::EC2::VPC", lambda properties: {
        "CidrBlock": properties["CidrBlock"], "CidrBlockAssociations": [], "Ipv6CidrBlocks": []})
    add("AWS::EC2::SecurityGroupIngress", _rule_in("IpPermissions"), _forget)
    add("AWS::EC2::SecurityGroupEgress", _rule_in("IpPermissionsEgress"), _forget)


def _rule_in(field: str) -> Create:
    def create(logical_id: str, properties: Properties, stack: str) -> Made:
        EC2._security_groups[properties["GroupId"]][field] += provisioners._ec2_sg_permissions([properties])
        rule_id = f"sgr-{uuid.uuid4().hex[:17]}"
        return rule_id, {"Id": rule_id}
    return create


def _forget(physical_id: str, properties: Properties) -> None:
    """A rule goes with its group: no packet is filtered here anyway."""
