"""An answer that lacks what such an answer has is an error of GitHub's, not one of ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bounty.github.app.facts import GitHubError

P = ParamSpec("P")
R = TypeVar("R")
MISSING = (KeyError, TypeError, ValueError, AttributeError)


def reads_answer(call: Callable[P, R]) -> Callable[P, R]:
    """Let a call raise GitHubError where the answer that it reads has another form than GitHub's."""

    @functools.wraps(call)
    def read(*args: P.args, **named: P.kwargs) -> R:
        try:
            return call(*args, **named)
        except MISSING as error:
            raise GitHubError(
                f"GitHub's answer is not as it must be ({call.__name__}: {type(error).__name__})."
            ) from error

    return read
