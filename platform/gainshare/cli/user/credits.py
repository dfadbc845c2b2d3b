"""`gainshare credits`: shows balance, lots and latest transfers."""

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import JsonOption, console, credits_text, print_json, table

SHOWN_TRANSFERS = 15


def show_credits(url: UrlOption = "", key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Show your balance, your lots in the order in which they are spent, and the latest transfers."""
    account = site(url, key).get("credits/")
    if as_json:
        print_json(account)
        return
    words = ", ".join(f"{credits_text(amount)} {name}" for name, amount in account["balance"].items())
    console.print(words, highlight=False)
    table(
        "Lots",
        ("from", "credits", "reference", "expires"),
        [
            (lot["source"], credits_text(lot["available_microcredits"]), lot["reference"], lot["expires_at"])
            for lot in account["lots"]
        ],
        right=("credits",),
    )
    table(
        "Latest transfers",
        ("when", "what", "state", "credits", "memo"),
        [
            (
                row["created_at"],
                row["kind"],
                row["state"],
                credits_text(row["amount_microcredits"]),
                row["memo"],
            )
            for row in account["transfers"][:SHOWN_TRANSFERS]
        ],
        right=("credits",),
    )
