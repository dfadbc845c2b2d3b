"""Answers for addresses below /api/ that nothing else answers. Mounted last, so that it takes what is left."""

from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, JsonResponse
from django.urls import is_valid_path, path
from django.views.decorators.csrf import csrf_exempt

from gainshare.accounts.errors import error_body

NO_SUCH = "There is no such address in the API: {method} {path}. /api/reference/ lists all of them."
NO_SLASH = "The address lacks its last slash. Send the request to {path}/ instead."


def is_for_programs(request: HttpRequest) -> bool:
    """Whether the caller expects JSON: the address is the API's, and none of its pages for people."""
    return request.path.startswith("/api/")


@csrf_exempt
def unknown_address(request: HttpRequest, rest: str = "") -> HttpResponse:
    """404 in the API's own shape. Only a read is redirected to the address with its slash: a body would get lost."""
    lacks_slash = not request.path.endswith("/") and is_valid_path(f"{request.path_info}/")
    if lacks_slash and request.method in ("GET", "HEAD"):
        return HttpResponsePermanentRedirect(request.get_full_path(force_append_slash=True))
    text = NO_SLASH if lacks_slash else NO_SUCH
    body = error_body("not_found", text.format(method=request.method, path=request.path[:200]))
    return JsonResponse(body, status=404)


urlpatterns = [path("", unknown_address), path("<path:rest>", unknown_address)]
