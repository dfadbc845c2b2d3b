"""Pagination of lists on pages."""

from typing import Any

from django.core.paginator import InvalidPage, Page, Paginator
from django.http import Http404, HttpRequest


class NoSuchPage(Http404):
    """The list has no page with this number."""


def page_of(request: HttpRequest, rows: Any, per_page: int) -> Page[Any]:
    """The page that `?page=` names, by default the first. Raises NoSuchPage."""
    paginator = Paginator(rows, per_page)
    wanted = request.GET.get("page") or "1"
    try:
        return paginator.page(wanted)
    except InvalidPage:
        last = paginator.num_pages
        has = "one page" if last == 1 else f"{last} pages"
        raise NoSuchPage(f"This list has only {has}, so there is no page {wanted[:20]}.") from None
