"""Pages of the API: Swagger UI to send requests, and the reference, both from the OpenAPI document.

Both load only this site's files and have nothing inline, as the Content-Security-Policy requires.
"""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from gainshare.accounts.schema import openapi_document
from gainshare.web.views.api_reference import Reference


@require_GET
def api_docs(request: HttpRequest) -> HttpResponse:
    """Page with Swagger UI, to send requests with a key or as the logged-in user."""
    return render(request, "web/api_docs.html")


@require_GET
def api_reference(request: HttpRequest) -> HttpResponse:
    """Page with every operation and every shape."""
    reference = Reference(openapi_document())
    return render(
        request, "web/api_reference.html", {"groups": reference.groups(), "shapes": reference.shapes()}
    )
