"""Short numbers of bounties: writing `B12`, and reading what names a bounty."""

import re
from uuid import UUID

NUMBER = re.compile(r"[Bb]([1-9][0-9]{0,17})")


def written(number: int) -> str:
    """A bounty's number as people write it: `B12`."""
    return f"B{number}"


def read_name(name: str) -> int | UUID:
    """The number in `B12` or `b12`, or the id that the text is. Raises ValueError for any other text."""
    if (match := NUMBER.fullmatch(name)) is not None:
        return int(match[1])
    return UUID(name)
