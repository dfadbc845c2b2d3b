"""`python -m benchmarks.catalogue`: print the tables of `docs/reference/suites.md`."""

import sys

from benchmarks.catalogue.tables import tables
from benchmarks.commands import ends_plainly
from model.command_errors import CommandParser


@ends_plainly
def main(arguments: list[str] | None = None) -> int:
    """0 when the tables were printed, 2 for arguments that it does not take."""
    CommandParser(prog="python -m benchmarks.catalogue", description=__doc__).parse_args(arguments)
    print("\n\n".join(tables()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
