"""Lists in pages, with the Link header that leads through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from bounty.github.standin.rest.routing import Call

MOST = 100
USUAL = 30
Item = TypeVar("Item")


def page_of(call: Call, items: Sequence[Item]) -> tuple[Sequence[Item], dict[str, str]]:
    """The items of the page that was asked for, and its headers."""
    size = min(MOST, max(1, _number(call.query.get("per_page"), USUAL)))
    page = max(1, _number(call.query.get("page"), 1))
    last = max(1, -(-len(items) // size))
    links: dict[str, int] = {}
    if page > 1:
        links |= {"prev": min(page - 1, last), "first": 1}
    if page < last:
        links |= {"next": page + 1, "last": last}
    header = ", ".join(f'<{_address(call, number)}>; rel="{name}"' for name, number in links.items())
    shown = items[(page - 1) * size : page * size]
    return shown, {"Link": header} if header else {}


def _address(call: Call, page: int) -> str:
    path = call.path
    if call.found is not None and "repo" in call.parameters:
        named = f"/repos/{call.parameters['owner']}/{call.parameters['repo']}"
        path = f"/repositories/{call.found.github_id}{path.removeprefix(named)}"
    query: dict[str, Any] = {**call.query, "page": page}
    return f"{call.hub.site.api}{path}?{urlencode(query)}"


def _number(text: str | None, usual: int) -> int:
    return int(text) if text is not None and text.isdigit() else usual
