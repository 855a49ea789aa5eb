"""Frozen dataclasses whose constructors take what users write, and keep what follows from it."""


def settle(record: object, **fields: object) -> None:
    """Set fields of a frozen dataclass, once, while it is made."""
    for name, value in fields.items():
        object.__setattr__(record, name, value)
