"""OpenAI-compatible API below /v1/: async views that check the key, admit the request and forward the answer.

Only keys are accepted. A browser's session is ignored, so a forged request cannot use it. The site's
playground calls `gateway.playground`, which uses the same `serve`. Every admitted answer carries
`X-Gainshare-Request-Id`, the id of its bill under /api/v1/usage/.
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

from django.db import DatabaseError, InterfaceError
from django.http import (
    HttpRequest,
    HttpResponseBase,
    JsonResponse,
    RawPostDataException,
    StreamingHttpResponse,
)
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from benchmarks.faults import fault_point
from gainshare.capacity.routing.analysis import analyse
from gainshare.gateway import services
from gainshare.gateway.background import in_background
from gainshare.gateway.database import in_database
from gainshare.gateway.errors import (
    BadKey,
    BadRequest,
    BodyTooLarge,
    GatewayError,
    MethodNotAllowed,
    NodeUnavailable,
    Overloaded,
    UnknownModel,
    UnpricedModel,
    error_body,
    error_response,
    unknown_endpoint,
)
from gainshare.gateway.generation import Generation, record_and_settle
from gainshare.gateway.known_keys import KnownKeys
from gainshare.gateway.metering import Metered
from gainshare.gateway.models import PLAYGROUND, RequestStatus
from gainshare.gateway.nodes import ModelNode, NodePool, TokenCount
from gainshare.gateway.nodes.placement import Placement
from gainshare.gateway.nodes.sharing import Sharing, give_up, pool_and_sharing
from gainshare.gateway.requests import MAX_BODY_BYTES, Endpoint, GenerationRequest, read_request
from gainshare.gateway.services import prompt_salt
from gainshare.gateway.waiting import count_when_a_node_is_ready, patiently
from gainshare.gateway.wire import DONE, Envelope, event
from gainshare.ledger.models import PriceVersion

logger = logging.getLogger(__name__)

known_keys = KnownKeys()
UNAVAILABLE = "The service is not available at the moment. Try again shortly."

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def openai_view(*methods: str) -> Callable[[AsyncView], AsyncView]:
    """Decorator for views of /v1/: errors in OpenAI's shape, no CSRF check, because sessions are not used."""
    return lambda view: csrf_exempt(in_openai_shape(*methods)(view))


def in_openai_shape(*methods: str) -> Callable[[AsyncView], AsyncView]:
    """Decorator that restricts a view to these methods and answers every error in OpenAI's shape."""

    def decorate(view: AsyncView) -> AsyncView:
        @functools.wraps(view)
        async def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if request.method not in methods:
                    raise MethodNotAllowed(f"Use {methods[0]} for {request.path}.", allowed=methods)
                return await view(request, *args, **kwargs)
            except GatewayError as error:
                return error_response(error)
            except (DatabaseError, InterfaceError):
                logger.exception("the database failed a request")
                return error_response(NodeUnavailable(UNAVAILABLE))
            except Exception:
                logger.exception("unexpected error")
                return error_response(
                    GatewayError("The service failed, and the failure was logged. Try again later.")
                )

        return answer

    return decorate


def presented_key(request: HttpRequest) -> str:
    """Read the key from the request's header, unchecked; raises `BadKey` if there is none."""
    word, _, raw = request.headers.get("Authorization", "").partition(" ")
    if word.lower() != "bearer" or not raw.strip():
        raise BadKey("You didn't provide an API key. Send it as: Authorization: Bearer gs_…")
    return raw.strip()


@openai_view("GET", "HEAD")
async def list_models(request: HttpRequest) -> HttpResponseBase:
    await in_database(services.caller, raw_key=presented_key(request))
    models = await in_database(services.priced_models, await served_models())
    return JsonResponse({"object": "list", "data": models})


@openai_view("GET", "HEAD")
async def retrieve_model(request: HttpRequest, model: str) -> HttpResponseBase:
    await in_database(services.caller, raw_key=presented_key(request))
    for entry in await in_database(services.priced_models, await served_models()):
        if entry["id"] == model:
            return JsonResponse(entry)
    raise UnknownModel(f"The model '{model[:100]}' does not exist.", param="model")


@openai_view("POST")
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    return await generate(request, Endpoint.CHAT)


@openai_view("POST")
async def completions(request: HttpRequest) -> HttpResponseBase:
    return await generate(request, Endpoint.COMPLETIONS)


async def served_models() -> dict[str, dict[str, Any]]:
    """Model objects of the nodes that can be reached; raises `NodeUnavailable`."""
    pool, sharing = pool_and_sharing()
    await sharing.fresh()
    return await pool.models()


async def generate(http: HttpRequest, endpoint: Endpoint) -> HttpResponseBase:
    """Authenticate, check and count, then `serve`."""
    raw_key = presented_key(http)
    try:
        request = read_request(read_body(http), endpoint)
    except GatewayError:
        await in_database(
            services.caller, raw_key=raw_key
        )  # errors in the request are only shown to callers with a valid key
        raise
    payer, price, counting = await check_and_count(raw_key, request)
    return await answer(request, payer, price, counting)


async def answer(
    request: GenerationRequest,
    payer: services.Payer,
    price: PriceVersion | None,
    counting: "asyncio.Task[tuple[ModelNode, TokenCount]]",
) -> HttpResponseBase:
    """Answer a request whose caller was checked and whose prompt is being counted, with a key or from the playground."""
    request_id = uuid4()
    if price is None:
        await settled(counting)
        if (error := counting.exception()) is not None:
            raise error
        raise UnpricedModel(
            f"The model '{request.model}' has no price yet, so it cannot be used. Ask a maintainer to "
            "publish a price.",
            param="model",
        )
    work = serve(request, request_id, payer, price, counting)
    if not request.is_stream:
        return await work
    return await patiently(in_background(work), request_id)


async def serve(
    request: GenerationRequest,
    request_id: UUID,
    payer: services.Payer,
    price: PriceVersion,
    counting: "asyncio.Task[tuple[ModelNode, TokenCount]]",
) -> HttpResponseBase:
    """Hold the credits, take a seat, and forward the node's tokens. Refusals are answers here, not exceptions."""
    try:
        pool, sharing = pool_and_sharing()
        count = await counted(request, request_id, payer, price, counting)
        try:
            if sharing.holds(request_id):  # it waited in front: the price is that of admission
                present = await in_database(services.price_of, model=request.model)
                price = present or price
            await sharing.fresh()
            place = placement(request, request_id, payer, count, pool=pool, sharing=sharing)
        except BaseException:
            if sharing.holds(request_id):
                in_background(give_up(sharing, request_id))
            raise
        admission = await admit(payer, request, request_id, price, count, place)
    except GatewayError as error:
        return error_response(error)
    except (DatabaseError, InterfaceError):
        logger.exception("the database failed a request")
        return error_response(NodeUnavailable(UNAVAILABLE))
    fault_point("gateway.held")
    generation = Generation(pool=pool, place=place, request=request, admission=admission)
    envelope = Envelope(
        request_id=request_id, endpoint=request.endpoint, model=request.model, created=int(time.time())
    )
    try:
        await generation.begin()
        response: HttpResponseBase
        if request.is_stream:
            response = EventStream(generation, events(generation, request, envelope))
        else:
            async for chunk in generation.chunks():
                envelope.gather(chunk)
            envelope.tree = generation.tree
            response = JsonResponse(envelope.answer(generation.metered))
    except GatewayError as error:
        return error_response(error, request_id=str(request_id))
    response["X-Gainshare-Request-Id"] = response["X-Request-Id"] = str(request_id)
    response["X-Gainshare-Max-Tokens"] = str(admission.max_tokens)
    return response


async def check_and_count(
    raw_key: str, request: GenerationRequest
) -> tuple[services.Payer, PriceVersion | None, "asyncio.Task[tuple[ModelNode, TokenCount]]"]:
    """Return the caller, the price, and the task that counts the prompt at a node.

    The prompt is counted after the key was checked. For a key that was valid a moment ago, the node counts
    while the database checks.
    """
    counting = asyncio.create_task(tokenise(request)) if known_keys.has(raw_key) else None
    try:
        payer, price = await in_database(services.caller_and_price, raw_key=raw_key, model=request.model)
    except BaseException as error:
        if counting is not None:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
        if isinstance(error, BadKey):
            known_keys.forget(raw_key)
        raise
    known_keys.remember(raw_key)
    return payer, price, counting or asyncio.create_task(tokenise(request))


async def tokenise(request: GenerationRequest) -> tuple[ModelNode, TokenCount]:
    """Count the prompt at a node of the present pool."""
    pool, sharing = pool_and_sharing()
    await sharing.fresh()
    return await pool.tokenise(request)


async def counted(
    request: GenerationRequest,
    request_id: UUID,
    payer: services.Payer,
    price: PriceVersion,
    counting: "asyncio.Task[tuple[ModelNode, TokenCount]]",
) -> TokenCount:
    """The prompt's length. Where the pool serves the model and has no node of it now, wait in front for one."""
    await settled(counting)
    pool, sharing = pool_and_sharing()
    try:
        _, count = counting.result()
    except (NodeUnavailable, UnknownModel):
        if request.model not in sharing.view.view.served:
            raise
        return await count_when_a_node_is_ready(
            pool=pool, sharing=sharing, request=request, request_id=request_id, payer=payer, price=price
        )
    return count


async def settled(counting: "asyncio.Task[tuple[ModelNode, TokenCount]]") -> None:
    """Wait for a count; it ends with its request."""
    try:
        await asyncio.wait({counting})
    except asyncio.CancelledError:
        counting.cancel()
        raise


def placement(
    request: GenerationRequest,
    request_id: UUID,
    payer: services.Payer,
    count: TokenCount,
    *,
    pool: NodePool,
    sharing: Sharing,
) -> Placement:
    """The request's place, after its analysis."""
    history_key = payer.key_prefix if payer.key_prefix != PLAYGROUND else f"user:{payer.user.pk}"
    room = max(count.max_context - count.prompt_tokens, 1)
    limit = request.max_tokens or min(room, request.default_tokens or room)
    analysis = analyse(
        prompt=request.prompt,
        prompt_tokens=count.prompt_tokens,
        limit=limit * request.n_answers,
        salt=prompt_salt(payer.user.pk),
        history=sharing.history(history_key, request.endpoint.value),
        urgency=request.urgency,
    )
    return Placement(
        sharing=sharing,
        pool=pool,
        request=request,
        request_id=request_id,
        account=payer.user.pk,
        payer=history_key,
        analysis=analysis,
    )


def read_body(http: HttpRequest) -> bytes:
    """Read the body; raises BodyTooLarge above the limit of any prompt."""
    if int(http.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body is too large: it may have at most {MAX_BODY_BYTES} bytes.")
    try:
        body = http.body
    except RawPostDataException:
        raise BadRequest("The body cannot be read. Send JSON.", code="invalid_json") from None
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body is too large: it may have at most {MAX_BODY_BYTES} bytes.")
    return body


async def admit(
    payer: services.Payer,
    request: GenerationRequest,
    request_id: UUID,
    price: PriceVersion,
    count: TokenCount,
    place: Placement,
) -> services.Admission:
    """Call `services.admit`; if the task is cancelled meanwhile, its hold and its seat are released."""
    admitting = in_background(
        in_database(
            services.admit,
            payer=payer,
            request=request,
            request_id=request_id,
            price=price,
            prompt_tokens=count.prompt_tokens,
            max_context=count.max_context,
            seat=place.asked(),
        )
    )
    try:
        admission: services.Admission = await asyncio.shield(admitting)
    except asyncio.CancelledError:
        in_background(release(admitting, place))
        raise
    except BaseException as error:
        place.refused(was_full=isinstance(error, Overloaded))
        raise
    place.seated(admission.node)
    return admission


async def release(admitting: "asyncio.Task[services.Admission]", place: Placement) -> None:
    """Release the hold and the seat of a client that disconnected during its admission."""
    await asyncio.wait({admitting})
    try:
        if not admitting.cancelled() and admitting.exception() is None:
            await record_and_settle(
                admitting.result(), {"status": RequestStatus.CANCELLED, "metered": Metered()}
            )
    finally:
        place.refused(was_full=False)


async def events(
    generation: Generation, request: GenerationRequest, envelope: Envelope
) -> AsyncIterator[bytes]:
    """Stream of server-sent events; a failure is one event with an `error`, which OpenAI's clients raise."""
    try:
        async for chunk in generation.chunks():
            envelope.tree = generation.tree
            if (public := envelope.chunk(chunk, wants_usage=request.wants_usage)) is not None:
                yield event(public)
    except GatewayError as error:
        yield event(error_body(error))
        return
    if request.wants_usage:
        yield event(envelope.usage_chunk(generation.metered))
    yield DONE


class EventStream(StreamingHttpResponse):
    """A streamed answer that ends its generation when the server drops it, even before its first event."""

    def __init__(self, generation: Generation, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, content_type="text/event-stream")
        self["Cache-Control"] = "no-cache, no-transform"
        self["X-Accel-Buffering"] = "no"  # otherwise nginx buffers tokens
        self._generation = generation
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Called by Django in a thread, after the response was sent or the client disconnected."""
        super().close()
        self._loop.call_soon_threadsafe(self._generation.finish, RequestStatus.CANCELLED)


urlpatterns = [
    path("models", list_models, name="v1-models"),
    path("models/<path:model>", retrieve_model, name="v1-model"),
    path("chat/completions", chat_completions, name="v1-chat-completions"),
    path("completions", completions, name="v1-completions"),
    path("", csrf_exempt(unknown_endpoint)),
    path("<path:rest>", csrf_exempt(unknown_endpoint)),
]
