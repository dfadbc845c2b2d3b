"""`gainshare prices`: shows what measured savings make of a model's prices, and publishes it."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import JsonOption, console, credits_text, print_json, table

prices = typer.Typer(no_args_is_help=True, help="Propose prices by measured savings, and publish a proposal.")
ModelArgument = Annotated[str, typer.Argument(help="The model's name.")]
MILLION = 1_000_000


@prices.command("propose")
def propose(
    model: ModelArgument, url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False
) -> None:
    """Show the next draft of a model's prices with its arithmetic (maintainers). Publishes nothing."""
    found = site(url, key).get("prices/proposals/", model=model)
    if as_json:
        print_json(found)
        return
    for line in found["lines"]:
        _print_line(line)
    rows = [
        (row["device_class"], row["batch"], f"{row['token_ns'] / 1e6:.3f} ms", _microcredits(row))
        for row in found["costs"]
    ]
    if rows:
        title = "Device time of the served tree, by its canary's clock"
        table(title, ("class", "answers at once", "a token", "credits per million output tokens"), rows)
    else:
        console.print("No canary clocked the served tree, so its cost is not known.", highlight=False)
    for text in _what_to_do(found):
        console.print(text, highlight=False, markup=False)


@prices.command("publish")
def publish(
    model: ModelArgument,
    digest: Annotated[str, typer.Option("--digest", help="Of the proposal that was shown.")],
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Publish the proposal with this digest (maintainers). It is refused if the proposal has changed since."""
    done = site(url, key).post("prices/proposals/", {"model": model, "digest": digest})
    if as_json:
        print_json(done)
        return
    console.print(f"published; it takes effect at {done['effective_at']}", highlight=False, markup=False)


def _print_line(line: dict[str, Any]) -> None:
    name = line["line"]
    if not line["savings"]:
        console.print(f"{name}: no deployment saved anything", highlight=False, markup=False)
        return
    steps = ("tree", "log before", "log by its bound", "saving")
    table(f"{name}: deployments", steps, [_saving_row(step) for step in line["savings"]])
    if line["royalties"]:
        shares = ("gain", "by", "saving", "their share", "until")
        table(f"{name}: royalties that run", shares, [_royalty_row(each) for each in line["royalties"]])
    columns = ("price, credits per million", "before all gains", "in force", "proposed")
    table(f"{name}: {_share(line['remaining_ppm'])} remains", columns, list(_price_rows(line)))


def _saving_row(step: dict[str, Any]) -> tuple[str, ...]:
    before, after = (f"{step[name] / MILLION:.6f}" for name in ("level_before_log_ppm", "level_log_ppm"))
    return step["tree"][:12] or "installed", before, after, _share(step["saving_ppm"])


def _royalty_row(each: dict[str, Any]) -> tuple[str, ...]:
    saving, share = _share(each["saving_ppm"]), _share(each["share_ppm"])
    return each["gain"], each["person"], saving, share, each["ends_at"]


def _price_rows(line: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for step in line["prices"]:
        if isinstance(step["reference"], int):
            yield step["term"], *(credits_text(step[name]) for name in ("reference", "in_force", "proposed"))
            continue
        for (above, reference), (_, in_force), (_, proposed) in zip(
            step["reference"], step["in_force"], step["proposed"], strict=False
        ):
            yield (
                f"{step['term']} above {above}",
                credits_text(reference),
                credits_text(in_force),
                credits_text(proposed),
            )


def _what_to_do(found: dict[str, Any]) -> Iterator[str]:
    if not found["changes"]:
        yield "The proposal is the price in force: there is nothing to publish."
    else:
        yield f"Published now, it takes effect at {found['effective_at']}. To publish it:"
        yield f"  gainshare prices publish {found['model']} --digest {found['digest']}"
    if found["falls_again_at"]:
        yield f"A royalty ends at {found['falls_again_at']}; the proposal after that is lower."


def _share(ppm: int) -> str:
    return f"{ppm / 10_000:.4f} %"


def _microcredits(row: dict[str, Any]) -> str:
    return credits_text(row["microcredits_per_million_tokens"])
