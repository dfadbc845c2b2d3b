"""Lengths of a model's latest requests. The gateway tells them through a setting: capacity imports nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from django.conf import settings
from django.utils.module_loading import import_string


class Lengths(NamedTuple):
    """Of one request, in tokens. ``cached_tokens`` of the prompt came out of a node's cache."""

    account: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


def recent_lengths(model: str, most: int) -> Sequence[Lengths]:
    """Those of the latest complete answers of ``model``, the newest first, ``most`` of them at most."""
    told = cast(Callable[[str, int], Sequence[Lengths]], import_string(settings.RECENT_LENGTHS))
    return told(model, most)
