"""The node agent of an elastic local stack: its command line, and when its first node is ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sandbox.devices import CPU, CUDA
from gainshare.capacity.agent.protocol import MODEL_NAME
from gainshare.local.environment import NODE_MEMORY
from gainshare.local.errors import LocalModeError
from gainshare.local.paths import Home
from gainshare.local.secrets import Secrets
from gainshare.local.supervision.spec import LogSays

if TYPE_CHECKING:
    from gainshare.local.services import StackOptions

STOP_S = 5  # how long nodes may finish when the stack is stopped
ANSWERS = "the site answers"
FAILED = ("is not started: ", " has ended: ")


def agent_arguments(
    home: Home, secrets: Secrets, options: StackOptions, env: dict[str, str]
) -> tuple[str, ...]:
    """Command line of the agent. Its nodes' sandbox is of the samples' level."""
    given = {
        "--url": options.url,
        "--token-file": str(secrets.host_token),
        "--folder": str(home.agent),
        "--devices": str(options.devices),
        "--kind": CUDA if any(Path("/dev").glob("nvidia[0-9]*")) else CPU,
        "--models": str(home.models),
        "--kernels": env.get("GAINSHARE_KERNELS") or str(home.kernels),
        "--level": options.node_level,
        "--memory-gib": env.get(NODE_MEMORY, ""),
        "--stop-s": str(STOP_S),
    }
    return tuple(word for name, value in given.items() if value for word in (name, value))


def require_elastic_model(model: str) -> None:
    """Raises LocalModeError for a model that an agent cannot find in its store by name."""
    if not MODEL_NAME.fullmatch(model):
        raise LocalModeError(
            f"--elastic serves models of the local store by name, not the folder {model}: save it below "
            "GAINSHARE_HOME/models, or leave --elastic out",
            code="usage",
        )


class AnsweringSite:
    """Readiness of an agent that begins without a node: the site answers it."""

    def __call__(self, says: LogSays) -> bool:
        return says(ANSWERS)


class FirstNode:
    """Readiness of the agent: at first its first node's, later its own, because no node may be wanted then.

    Raises LocalModeError if the first node ends instead.
    """

    def __init__(self) -> None:
        self._was_ready = False

    def __call__(self, says: LogSays) -> bool:
        if self._was_ready:
            return says(ANSWERS)
        if says(" is ready"):
            self._was_ready = True
            return True
        if any(says(text) for text in FAILED):
            raise LocalModeError(
                "the first model node did not start: see agent.log and agent/devices/0/node.log"
            )
        return False
