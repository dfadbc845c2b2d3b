"""`python -m benchmarks.power [--json] [--quick]`: how often the judge is wrong, and what tricks would pay.

Every cell is one kind of noise at one size, with the decision rules that judge real runs. Seeded: the same figures on
every run. Takes a few minutes, `--quick` some seconds. `python -m benchmarks.power real` measures on this machine.
"""

import sys

from benchmarks.commands import ends_plainly
from benchmarks.power import real
from benchmarks.power.tables import QUICK_SIMULATIONS, SIMULATIONS, simulated_rows
from benchmarks.report import Report
from model.command_errors import CommandParser


@ends_plainly
def main(arguments: list[str] | None = None) -> int:
    """0 whenever something was simulated or measured; 2 where the arguments or this machine do not allow it."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["real"]:
        return real.main(given[1:])
    parser = CommandParser(prog="python -m benchmarks.power", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SIMULATIONS} simulations instead of {SIMULATIONS}"
    )
    chosen = parser.parse_args(given)
    runs = QUICK_SIMULATIONS if chosen.quick else SIMULATIONS
    rows = simulated_rows(runs, lambda what: print(what, file=sys.stderr, flush=True))
    command = "python -m benchmarks.power" + (" --quick" if chosen.quick else "")
    Report.here(command, rows).show(as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
