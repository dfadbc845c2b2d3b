"""`gainshare verify`: recomputes the verdict of an evidence file, offline."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gainshare.cli.client import UrlOption
from gainshare.cli.output import CliError, JsonOption, console, print_json, table
from gainshare.cli.remeasure import measure_again


def verify(
    file: Annotated[Path, typer.Argument(help="An evidence file, as downloaded from the site.")],
    public_key: Annotated[
        str, typer.Option("--public-key", help="Accept only this runner's public key (raw Ed25519, base64).")
    ] = "",
    nonce: Annotated[str, typer.Option("--nonce", help="The nonce that the site gave to the run.")] = "",
    rerun: Annotated[
        bool,
        typer.Option("--rerun", help="Also measure both trees again on this machine, with the same judge."),
    ] = False,
    base: Annotated[
        str,
        typer.Option(
            "--base", help="With --rerun: folder or diff of the base tree; fetched from the site by default."
        ),
    ] = "",
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate",
            help="With --rerun: folder or diff of the candidate; fetched from the site by default.",
        ),
    ] = "",
    reproduction: Annotated[
        str,
        typer.Option(
            "--reproduction", help="With --rerun and evidence about a bug: the reproduction's file."
        ),
    ] = "",
    url: UrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Check signature, hashes and commitment, and recompute the verdict from the raw samples.

    With --rerun the trees, which must have the hashes that the evidence names, are measured again.

    Exit status 1 if any check fails. Without --public-key the key in the file is used, which shows that the
    file is unchanged, but not who made it.
    """
    from benchmarks.evidence.signing import key_id
    from benchmarks.evidence.verify import verify_evidence
    from benchmarks.sandbox.readable import readable

    document = _load(file)
    trusted = {key_id(public_key): public_key} if public_key else None
    report = verify_evidence(document, trusted_keys=trusted, nonce=nonce or None)
    checks = [{"name": check.name, "holds": check.holds, "detail": check.detail} for check in report.checks]
    if as_json:
        print_json(
            {
                "file": str(file),
                "ok": report.ok,
                "verdict": {"kind": report.verdict.kind.value, "reason": report.verdict.reason},
                "checks": checks,
            }
        )
    else:
        # The words in a file that anyone may have made: a terminal would act on some.
        rows = [
            (row["name"], "yes" if row["holds"] else "NO", readable(str(row["detail"]))) for row in checks
        ]
        table(str(file), ("check", "holds", "detail"), rows)
        console.print(
            f"{'verified' if report.ok else 'NOT verified'}, verdict {report.verdict.kind.value}: "
            f"{readable(report.verdict.reason)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not report.ok:
        raise typer.Exit(1)
    if rerun:
        sources = {"base": base, "candidate": candidate}
        raise typer.Exit(
            measure_again(
                file,
                document["document"]["trees"],
                sources,
                url=url,
                as_json=as_json,
                reproduction=reproduction,
            )
        )


def _load(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}", code="unreadable") from None
    except ValueError:
        raise CliError(f"{file} is not JSON, so it is no evidence file", code="malformed") from None
    if not isinstance(document, dict):
        raise CliError(f"{file} is no evidence file: it does not hold one JSON object", code="malformed")
    return document
