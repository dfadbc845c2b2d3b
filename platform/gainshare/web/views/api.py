"""The API's two pages: one to try requests on, and the reference to read, made from the same OpenAPI document.

Both load this site's files alone and have nothing inline, as its Content-Security-Policy demands.
"""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from gainshare.accounts.schema import openapi_document
from gainshare.web.views.api_reference import Reference


@require_GET
def api_docs(request: HttpRequest) -> HttpResponse:
    """Swagger UI, for trying requests with a key or as the person who is signed in."""
    return render(request, "web/api_docs.html")


@require_GET
def api_reference(request: HttpRequest) -> HttpResponse:
    """Every operation and every shape, to read and to search with the browser's own means."""
    reference = Reference(openapi_document())
    return render(
        request, "web/api_reference.html", {"groups": reference.groups(), "shapes": reference.shapes()}
    )
