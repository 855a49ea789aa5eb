"""Frozen dataclasses whose constructors convert what users write."""


def settle(record: object, **fields: object) -> None:
    """Set fields of a frozen dataclass, once, in its constructor."""
    for name, value in fields.items():
        object.__setattr__(record, name, value)
