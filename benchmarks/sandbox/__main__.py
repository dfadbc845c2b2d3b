"""`python -m benchmarks.sandbox [--level NAME] [--json]`: attacks this machine's sandbox and prints what held."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.commands import ends_plainly
from benchmarks.sandbox.accounting.placement import accounting
from benchmarks.sandbox.levels import AWARD_ELIGIBLE, SandboxError, SandboxLevel
from benchmarks.sandbox.probe import REAL_LEVELS, best_level, probe
from benchmarks.sandbox.selftest.run import self_test
from model.command_errors import CommandParser


@ends_plainly
def main() -> int:
    """0: everything is contained. 1: something is not. 2: there is no sandbox here."""
    parser = CommandParser(prog="python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument(
        "--level", choices=[level.value for level in REAL_LEVELS], help="instead of the one chosen here"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        level = SandboxLevel(arguments.level) if arguments.level else best_level()
        probe(level)
        attacks = self_test(level)
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    seconds = time.monotonic() - started
    escaped = [attack for attack in attacks if not attack.contained]
    if arguments.json:
        document = {
            "command": "python -m benchmarks.sandbox",
            "level": str(level),
            "award_eligible": level in AWARD_ELIGIBLE,
            "accounting": accounting(),
            "seconds": round(seconds, 2),
            "attacks": [vars(attack) for attack in attacks],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        width = max(len(attack.name) for attack in attacks)
        for attack in attacks:
            word = "contained" if attack.contained else "ESCAPED  "
            sys.stdout.write(f"{attack.name:<{width}}  {word}  {attack.detail}\n")
        sys.stdout.write(
            f"\nlevel {level} ({accounting()}): {len(attacks) - len(escaped)} of {len(attacks)} attacks contained "
            f"in {seconds:.1f} s\n"
        )
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
