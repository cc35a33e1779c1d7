"""The emulator's table of CloudFormation types, and how a type is put into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ministack.services.cloudformation import provisioners

Properties = dict[str, Any]
Made = tuple[str, dict[str, Any]]  # physical id, attributes for Fn::GetAtt
Create = Callable[[str, Properties, str], Made]  # logical id, properties, stack's name
Delete = Callable[[str, Properties], None]  # physical id, properties

TABLE: dict[str, dict[str, Any]] = provisioners._RESOURCE_HANDLERS


def add(resource_type: str, create: Create, delete: Delete) -> None:
    """Take a type in that the emulator does not know. Raises KeyError for one that it knows."""
    if resource_type in TABLE:
        raise KeyError(f"{resource_type}: the emulator knows it by now; take ours out.")
    TABLE[resource_type] = {"create": create, "delete": delete}


def add_attributes(resource_type: str, attributes: Callable[[Properties], dict[str, Any]]) -> None:
    """Have a type answer more attributes than the emulator lets it."""
    handler = TABLE[resource_type]
    create, update = handler["create"], handler["update"]

    def create_more(logical_id: str, properties: Properties, stack: str) -> Made:
        physical_id, known = create(logical_id, properties, stack)
        return physical_id, {**known, **attributes(properties)}

    def update_more(physical_id: str, old: Properties, new: Properties, stack: str, logical_id: str | None = None) -> Made:
        physical_id, known = update(physical_id, old, new, stack, logical_id)
        return physical_id, {**known, **attributes(new)}

    handler.update(create=create_more, update=update_more)
