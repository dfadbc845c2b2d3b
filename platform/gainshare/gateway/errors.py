"""Errors of the model-access API in OpenAI's shape, so that OpenAI's clients raise their own classes.

One class per reason. `x-should-retry` tells the client whether the same request can succeed a moment later;
otherwise it would repeat every 429.
"""

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, JsonResponse

from gainshare.accounts.errors import DomainError


class GatewayError(DomainError):
    """An error with OpenAI's four fields. `code` and `message` are ours, `type` and `param` are OpenAI's."""

    status = 500
    code = "internal_error"
    type = "server_error"
    should_retry = False
    retry_after_s = 1

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class BadRequest(GatewayError):
    """The request is not valid."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"


class ContextTooLong(BadRequest):
    """Prompt and completion do not fit into the model's context."""

    code = "context_length_exceeded"


class BodyTooLarge(BadRequest):
    """The body is larger than any prompt the models can read."""

    status = 413
    code = "request_too_large"


class BadKey(GatewayError):
    """No key, a wrong one, or one that was revoked or has expired."""

    status = 401
    code = "invalid_api_key"
    type = "invalid_request_error"


class NotSignedIn(GatewayError):
    """The session of the page has ended. Status 403, because 401 would have to name a way to send credentials."""

    status = 403
    code = "not_signed_in"
    type = "invalid_request_error"


class MissingScope(GatewayError):
    """The key or the logged-in user has no permission to use models."""

    status = 403
    code = "insufficient_scope"
    type = "invalid_request_error"


class UnknownModel(GatewayError):
    """No node serves a model of that name."""

    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class UnknownTree(GatewayError):
    """No node serves the model from the tree that the request names."""

    status = 404
    code = "model_not_found"
    type = "invalid_request_error"


class UnpricedModel(GatewayError):
    """The model is served but has no price, so it cannot be billed."""

    status = 404
    code = "model_not_priced"
    type = "invalid_request_error"


class UnknownEndpoint(GatewayError):
    """There is no such address."""

    status = 404
    code = "unknown_url"
    type = "invalid_request_error"


class MethodNotAllowed(GatewayError):
    """The address takes `allowed` methods only."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class NoCredits(GatewayError):
    """The balance does not cover the prompt and one token."""

    status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"


class TooManyRequests(GatewayError):
    """The account has as many requests in flight as it may have. Wait until one of them ends."""

    status = 429
    code = "too_many_requests"
    type = "requests"
    should_retry = True


class NodeUnavailable(GatewayError):
    """No node can take the request at this moment."""

    status = 503
    code = "service_unavailable"
    should_retry = True


class Overloaded(NodeUnavailable):
    """Too many requests wait for a node of the model, or this one waited too long. Try again later."""

    code = "overloaded"
    retry_after_s = 5


class NodeFailed(GatewayError):
    """The node failed while it was answering."""

    status = 502
    code = "node_failed"
    should_retry = True


class TookTooLong(GatewayError):
    """The generation did not end within the time its credits were held for."""

    status = 504
    code = "timeout"


class DeadlineMissed(GatewayError):
    """The deadline that the request named could not be met."""

    status = 504
    code = "deadline_exceeded"


def error_body(error: GatewayError) -> dict[str, Any]:
    """OpenAI's error object for `error`."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: GatewayError, *, request_id: str = "") -> JsonResponse:
    """`error` as an HTTP response with the headers that OpenAI's clients read."""
    response = JsonResponse(error_body(error), status=error.status)
    response["x-should-retry"] = "true" if error.should_retry else "false"
    if error.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        response["Allow"] = ", ".join(error.allowed)
    if error.should_retry:
        response["Retry-After"] = str(error.retry_after_s)
    if request_id:
        response["X-Gainshare-Request-Id"] = response["X-Request-Id"] = request_id
    return response


def unknown_endpoint(request: HttpRequest, rest: str = "") -> JsonResponse:
    """View for unknown addresses below /v1/: 404 in OpenAI's shape."""
    return error_response(UnknownEndpoint(f"Unknown request URL: {request.method} {request.path}."))
