"""Errors that a caller of the node sees, in OpenAI's shape."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An error response. `param` names the request's field at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.kind = status, code, message, param, kind
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def bad_value(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """An error 400 that names the field, if one is at fault, and its valid values."""
    return ApiError(400, code, message, param=param)


def not_now(code: str, message: str, *, retry_s: int = 1, status: int = 503) -> ApiError:
    """A temporary refusal: the same request may succeed a moment later."""
    kind = "rate_limit_error" if status == 429 else "server_error"
    return ApiError(status, code, message, kind=kind, headers={"Retry-After": str(retry_s)})


def too_late() -> ApiError:
    """A deadline that passed before the answer began."""
    message = "the deadline of this request passed, or could not be met any more, before its answer began"
    return ApiError(504, "deadline_exceeded", message, kind="server_error")


def upstream_failed(why: str) -> ApiError:
    """A failure of the upstream server: it broke off or sent contradictions."""
    return ApiError(502, "upstream_failed", f"the server behind this node failed: {why}", kind="server_error")


class LoadError(Exception):
    """A model that cannot be served; `status` is the HTTP status of the reason."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code
