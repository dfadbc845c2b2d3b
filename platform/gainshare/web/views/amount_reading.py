"""JSON for the forms' script: an amount as the site parses it, while it is typed."""

from django.core.exceptions import ValidationError
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from gainshare.web.forms.amounts import spelled_out
from gainshare.web.forms.credit_forms import read_amount


@require_GET
def read(request: HttpRequest) -> JsonResponse:
    """The amount in both units, or the reason why it cannot be parsed."""
    try:
        amount = read_amount(request.GET.get("text", ""))
    except ValidationError as refusal:
        return JsonResponse({"text": " ".join(refusal.messages), "microcredits": None})
    return JsonResponse({"text": spelled_out(amount), "microcredits": amount})
