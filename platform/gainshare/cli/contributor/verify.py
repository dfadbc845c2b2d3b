"""`gainshare verify`: recomputes the verdict of an evidence file, or of a canary's document, offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gainshare.cli.client import UrlOption
from gainshare.cli.maintainer.remeasure import measure_again
from gainshare.cli.output import CliError, JsonOption, console, print_json, table

if TYPE_CHECKING:
    from benchmarks.evidence.verify import Check


def verify(
    file: Annotated[
        Path, typer.Argument(help="An evidence file or a canary's document, as downloaded from the site.")
    ],
    public_key: Annotated[
        str,
        typer.Option(
            "--public-key", help="Accept only this runner's or host's public key (raw Ed25519, base64)."
        ),
    ] = "",
    nonce: Annotated[
        str, typer.Option("--nonce", help="The nonce that the site gave to the run or canary.")
    ] = "",
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
    from benchmarks.canary.verify import is_canary
    from benchmarks.evidence.signing import key_id
    from benchmarks.evidence.verify import verify_evidence

    document = _load(file)
    trusted = {key_id(public_key): public_key} if public_key else None
    if is_canary(document):
        if rerun:
            raise CliError(
                "a canary is not measured again from its file: use python -m benchmarks.canary --compare",
                code="not_evidence",
            )
        _verify_canary(file, trusted, nonce or None, as_json=as_json)
        return
    report = verify_evidence(document, trusted_keys=trusted, nonce=nonce or None)
    _show(file, report.ok, report.verdict.kind.value, report.verdict.reason, report.checks, as_json=as_json)
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


def _verify_canary(file: Path, trusted: dict[str, str] | None, nonce: str | None, *, as_json: bool) -> None:
    """Show the checks and, where they hold, the table of what the candidate costs less."""
    from benchmarks.canary.table import table as lines
    from benchmarks.canary.verify import verify_canary_bytes

    report = verify_canary_bytes(file.read_bytes(), trusted_keys=trusted, nonce=nonce)
    kind = "passed" if report.verdict.passed else "refused"
    more = {"lines": report.verdict.to_json()} if report.digest is not None else {}
    _show(file, report.ok, kind, report.verdict.why, report.checks, as_json=as_json, more=more)
    if not report.ok:
        raise typer.Exit(1)
    if not as_json and report.verdict.served:
        console.print(lines(report.verdict), highlight=False, markup=False, soft_wrap=True)


def _show(
    file: Path,
    is_ok: bool,
    kind: str,
    reason: str,
    checks: Sequence[Check],
    *,
    as_json: bool,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    from benchmarks.sandbox.readable import readable

    if as_json:
        shown = [{"name": check.name, "holds": check.holds, "detail": check.detail} for check in checks]
        verdict = {"kind": kind, "reason": reason}
        print_json({"file": str(file), "ok": is_ok, "verdict": verdict, **more, "checks": shown})
        return
    # The words in a file that anyone may have made: a terminal would act on some.
    rows = [(check.name, "yes" if check.holds else "NO", readable(check.detail)) for check in checks]
    table(str(file), ("check", "holds", "detail"), rows)
    console.print(
        f"{'verified' if is_ok else 'NOT verified'}, verdict {kind}: {readable(reason)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
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
