"""API of the site's playground: chat below /playground/api/, paid by the logged-in user.

These views authenticate by the browser's session, so unlike /v1/ they use the site's middleware: Django
checks the CSRF token and the origin of every POST, and a disabled account has no session. An `Authorization`
header is ignored. Checks, limits, holds and bills are the same as with a key.
"""

import asyncio

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache

from gainshare.accounts.models import User
from gainshare.gateway import services
from gainshare.gateway.api import answer, in_openai_shape, read_body, served_models, tokenise
from gainshare.gateway.database import in_database
from gainshare.gateway.errors import BadRequest, NotSignedIn
from gainshare.gateway.requests import Endpoint, read_request
from gainshare.gateway.services import Payer


async def signed_in_payer(request: HttpRequest) -> Payer:
    """The user of the session; raises `NotSignedIn` or `MissingScope`."""
    user = await request.auser()
    if not isinstance(user, User):
        raise NotSignedIn("You are logged out. Log in again, then send the question again.")
    return services.visitor(user=user)


@never_cache
@in_openai_shape("GET", "HEAD")
async def list_models(request: HttpRequest) -> HttpResponseBase:
    await signed_in_payer(request)
    models = await in_database(services.priced_models, await served_models())
    return JsonResponse({"object": "list", "data": models})


@never_cache
@in_openai_shape("POST")
async def chat_completions(http: HttpRequest) -> HttpResponseBase:
    """Streamed chat. A whole answer would keep a thread of the site for as long as the model generates."""
    payer = await signed_in_payer(http)
    request = read_request(read_body(http), Endpoint.CHAT)
    if not request.is_stream:
        raise BadRequest("The playground only streams: send 'stream': true.", param="stream")
    price = await in_database(services.price_of, model=request.model)
    return await answer(request, payer, price, asyncio.create_task(tokenise(request)))


urlpatterns = [
    path("models", list_models, name="playground-models"),
    path("chat/completions", chat_completions, name="playground-chat"),
]
