"""Typed readers of environment variables that refuse bad values instead of guessing.

A secret `NAME` may also come from the file named by `NAME_FILE`; the value is never echoed in an error.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TRUE_WORDS = {"1", "true", "yes", "on"}
FALSE_WORDS = {"0", "false", "no", "off"}
PREPARE_THRESHOLD = 3


class BadSetting(ValueError):
    """An environment variable has a value that the platform cannot use."""


class Env:
    """Typed readers over a mapping of environment variables (``os.environ`` by default)."""

    def __init__(self, source: Mapping[str, str] | None = None) -> None:
        self._source = os.environ if source is None else source

    def text(self, name: str, default: str) -> str:
        return self._source.get(name, default)

    def flag(self, name: str, *, default: bool) -> bool:
        raw = self._source.get(name, "").strip().lower()
        if not raw:
            return default
        if raw in TRUE_WORDS | FALSE_WORDS:
            return raw in TRUE_WORDS
        raise BadSetting(f"{name} must be one of {sorted(TRUE_WORDS | FALSE_WORDS)}")

    def integer(self, name: str, default: int, *, minimum: int, maximum: int | None = None) -> int:
        raw = self._source.get(name, "").strip()
        if not raw:
            return default
        try:
            value = int(raw)
        except ValueError:
            raise BadSetting(f"{name} must be a whole number") from None
        if value < minimum:
            raise BadSetting(f"{name} must be at least {minimum}")
        if maximum is not None and value > maximum:
            raise BadSetting(f"{name} must be at most {maximum}")
        return value

    def words(self, name: str, default: list[str]) -> list[str]:
        raw = self._source.get(name)
        return default if raw is None else [word.strip() for word in raw.split(",") if word.strip()]

    def path(self, name: str, default: Path) -> Path:
        raw = self._source.get(name, "").strip()
        return Path(raw) if raw else default

    def secret(self, name: str, *, default: str | None = None) -> str:
        """Value of the secret, or the content of the file that ``NAME_FILE`` names."""
        if value := self._source.get(name):
            return value
        if file := self._source.get(f"{name}_FILE"):
            try:
                return Path(file).read_text().strip()
            except OSError as error:
                raise BadSetting(f"{name}_FILE cannot be read: {error.strerror}") from None
        if default is None:
            raise BadSetting(f"set {name} or {name}_FILE")
        return default


def postgres_settings(url: str) -> dict[str, object]:
    """Django's DATABASES entry for a ``postgresql://`` URL; a Unix socket folder goes into ``?host=``.

    Statements are prepared at their third use, which saves the server a sixth of an admission's time.
    ``?prepare_threshold=none`` switches that off, for poolers that hand out another connection per transaction.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise BadSetting("DATABASE_URL must start with postgresql://")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    host = query.pop("host", None) or parts.hostname or ""
    threshold = query.pop("prepare_threshold", str(PREPARE_THRESHOLD))
    if threshold != "none" and not threshold.isdecimal():
        raise BadSetting("prepare_threshold in DATABASE_URL must be a number of uses, or none")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "gainshare",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or query.pop("port", "")),
        "OPTIONS": {
            **query,
            "server_side_binding": True,
            "prepare_threshold": None if threshold == "none" else int(threshold),
        },
    }
