"""Answers for unknown addresses below /api/. Mounted last."""

from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, JsonResponse
from django.urls import is_valid_path, path
from django.views.decorators.csrf import csrf_exempt

from gainshare.accounts.errors import error_body

NO_SUCH = "The API has no such address: {method} {path}. /api/reference/ lists all addresses."
NO_SLASH = "The address must end in a slash. Send the request to {path}/ instead."


def is_for_programs(request: HttpRequest) -> bool:
    """Whether the caller expects JSON: the address belongs to the API and is not one of its pages."""
    return request.path.startswith("/api/")


@csrf_exempt
def unknown_address(request: HttpRequest, rest: str = "") -> HttpResponse:
    """404 in the API's shape. Only a read is redirected to the address with a slash."""
    lacks_slash = not request.path.endswith("/") and is_valid_path(f"{request.path_info}/")
    if lacks_slash and request.method in ("GET", "HEAD"):
        return HttpResponsePermanentRedirect(request.get_full_path(force_append_slash=True))
    text = NO_SLASH if lacks_slash else NO_SUCH
    body = error_body("not_found", text.format(method=request.method, path=request.path[:200]))
    return JsonResponse(body, status=404)


urlpatterns = [path("", unknown_address), path("<path:rest>", unknown_address)]
