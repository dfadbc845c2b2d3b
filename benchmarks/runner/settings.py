"""Settings of a runner worker from its environment. Refuses missing or wrong ones; never echoes a secret."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HARDWARE = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")


class BadRunnerSetting(ValueError):
    """A variable is missing or unusable; the message names it and what it must be."""


@dataclass(frozen=True)
class RunnerSettings:
    """One runner: where its platform is, who it is, what it measures on and where it keeps its files."""

    platform_url: str
    broker_url: str = field(repr=False)
    token: str = field(repr=False)
    key_file: Path
    hardware: str
    home: Path

    @property
    def queue(self) -> str:
        return f"runner.{self.hardware}"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "RunnerSettings":
        """Raises BadRunnerSetting."""
        key_file = Path(_required(env, "GAINSHARE_RUNNER_KEY_FILE"))
        if not key_file.is_file():
            raise BadRunnerSetting(
                "GAINSHARE_RUNNER_KEY_FILE must name the runner's Ed25519 private key (PEM)"
            )
        url = _required(env, "GAINSHARE_URL").rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise BadRunnerSetting("GAINSHARE_URL must start with http:// or https://")
        return cls(
            platform_url=url,
            broker_url=_required(env, "GAINSHARE_RUNNER_BROKER_URL"),
            token=_token(env),
            key_file=key_file,
            hardware=hardware(env),
            home=Path(_required(env, "GAINSHARE_RUNNER_HOME")),
        )


def hardware(env: Mapping[str, str] = os.environ) -> str:
    """The kind of device measured on; decides the queue's name."""
    name = env.get("GAINSHARE_RUNNER_HARDWARE", "").strip() or "cpu"
    if not _HARDWARE.fullmatch(name):
        raise BadRunnerSetting("GAINSHARE_RUNNER_HARDWARE must be lower-case letters, digits and dashes")
    return name


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise BadRunnerSetting(f"set {name}; docs/how-to/run-a-runner.md shows how a runner is started")
    return value


def _token(env: Mapping[str, str]) -> str:
    path = Path(_required(env, "GAINSHARE_RUNNER_TOKEN_FILE"))
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise BadRunnerSetting(f"GAINSHARE_RUNNER_TOKEN_FILE cannot be read: {error.strerror}") from None
    if not token.startswith("gsr_"):
        raise BadRunnerSetting("GAINSHARE_RUNNER_TOKEN_FILE does not hold a runner token (gsr_...)")
    return token
