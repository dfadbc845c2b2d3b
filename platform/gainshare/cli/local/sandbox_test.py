"""`gainshare sandbox-test`: attacks this machine's sandbox and shows which attacks were contained."""

import time
from typing import Annotated

import typer

from gainshare.cli.output import CliError, JsonOption, console, print_json, table

LevelOption = Annotated[
    str | None,
    typer.Option("--level", help="Attack this level instead of the default one of this machine."),
]


def sandbox_test(level: LevelOption = None, as_json: JsonOption = False) -> None:
    """Try every known way to break out of the sandbox, from a sample and from a model node. Exit status 1 if one works.

    Also lists every level, and how to make those work that do not. Levels: bubblewrap (as root),
    bubblewrap-user (as an ordinary user), container.
    """
    from benchmarks.commands import dying_of_signals
    from benchmarks.confined_node.selftest import attack_node
    from benchmarks.sandbox import AWARD_ELIGIBLE, SandboxError, best_level, levels_here, self_test
    from benchmarks.sandbox.accounting.placement import accounting

    levels = levels_here()
    started = time.monotonic()
    try:
        if level is None:
            chosen = best_level()
        elif level not in levels:
            names = ", ".join(levels)
            raise CliError(f"there is no level {level!r}: choose one of {names}", code="no_such_level")
        else:
            chosen = next(known for known in levels if known == level)
            if problem := levels[chosen]:
                raise CliError(problem, code="no_sandbox")
        with dying_of_signals():
            attacks = [*self_test(chosen), *attack_node(chosen)]
    except SandboxError as error:
        raise CliError(str(error), code="no_sandbox") from None
    contained = all(attack.contained for attack in attacks)
    document = {
        "level": chosen.value,
        "award_eligible": chosen in AWARD_ELIGIBLE,
        "accounting": accounting(),
        "contained": contained,
        "seconds": round(time.monotonic() - started, 1),
        "levels": [
            {"level": name.value, "available": problem is None, "reason": problem}
            for name, problem in levels.items()
        ],
        "attacks": [
            {"name": attack.name, "contained": attack.contained, "detail": attack.detail}
            for attack in attacks
        ],
    }
    if as_json:
        print_json(document)
    else:
        table(
            f"Sandbox {chosen.value}",
            ("attack", "contained", "detail"),
            [(attack.name, "yes" if attack.contained else "NO", attack.detail) for attack in attacks],
        )
        table(
            "Levels of this machine",
            ("level", "works here", "why not, and what to do"),
            [(name.value, "no" if problem else "yes", problem) for name, problem in levels.items()],
        )
        console.print(
            f"Level {chosen.value}, counted by {document['accounting']}: "
            f"{sum(attack.contained for attack in attacks)} of {len(attacks)} attacks contained "
            f"in {document['seconds']} s",
            highlight=False,
        )
    if not contained:
        raise typer.Exit(1)
