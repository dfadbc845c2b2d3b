"""`gainshare sandbox-test`: attacks this machine's sandbox and shows what held."""

import typer

from gainshare.cli.output import CliError, JsonOption, console, print_json, table


def sandbox_test(as_json: JsonOption = False) -> None:
    """Try to break out of the sandbox in every way we know. Exit status 1 when anything works."""
    from benchmarks.sandbox import AWARD_ELIGIBLE, SandboxUnavailable, best_level, self_test

    try:
        level = best_level()
    except SandboxUnavailable as error:
        raise CliError(str(error), code="no_sandbox") from None
    attacks = self_test(level)
    contained = all(attack.contained for attack in attacks)
    if as_json:
        rows = [
            {"name": attack.name, "contained": attack.contained, "detail": attack.detail}
            for attack in attacks
        ]
        is_eligible = level in AWARD_ELIGIBLE
        print_json(
            {"level": level.value, "award_eligible": is_eligible, "contained": contained, "attacks": rows}
        )
    else:
        table(
            f"Sandbox {level.value}",
            ("attack", "contained", "detail"),
            [(attack.name, "yes" if attack.contained else "NO", attack.detail) for attack in attacks],
        )
        console.print(
            f"{sum(attack.contained for attack in attacks)} of {len(attacks)} contained", highlight=False
        )
    if not contained:
        raise typer.Exit(1)
