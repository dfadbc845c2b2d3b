"""Options of a node agent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.sandbox.devices import CPU, DEVICES
from benchmarks.sandbox.levels import SandboxLevel
from gainshare.capacity.agent.protocol import FIRST_PORT, LAST_PORT, MAX_DEVICES, MOST_DRAIN_S
from model.serving.node.options import above, at_least, whole

PROGRAM = "python -m gainshare.capacity.agent"
UPSTREAM = "--upstream"


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent runs. Times are seconds of the monotonic clock; ``level`` is empty for the machine's best sandbox.

    ``node`` are further options of each node, as ``--cache-gib 2``.
    """

    url: str
    token_file: Path
    folder: Path
    devices: int = 1
    kind: str = CPU
    listen: str = "127.0.0.1"
    ports: tuple[int, int] = (0, 0)
    models: Path | None = None
    kernels: Path | None = None
    level: str = ""
    memory_gib: float | None = None
    node: tuple[str, ...] = ()
    start_s: float = 600.0
    hung_s: float = 5.0
    hung_end_s: float = 60.0
    drain_s: float = 120.0
    stop_s: float = 120.0
    notice_s: float = 120.0


def parse_options(arguments: Sequence[str] | None) -> AgentOptions:
    """Read the command line; ends the process with status 2 for options that cannot work."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    given["node"] = tuple(word for word in given["node"] if word != "--")
    given["url"] = given["url"].rstrip("/")
    parts = urlsplit(given["url"])
    if parts.scheme not in ("http", "https") or not parts.hostname:
        parser.error(f"--url must be the site's address, as https://HOST, not {given['url']!r}")
    if any(word.split("=")[0] == UPSTREAM for word in given["node"]):
        parser.error("a node with --upstream needs the network, which an agent's nodes do not have")
    if given["drain_s"] > MOST_DRAIN_S:
        parser.error(
            f"--drain-s may be {MOST_DRAIN_S:g} at most: the day's budget sets no more aside for a node that drains"
        )
    return AgentOptions(**given)


def port_range(text: str) -> tuple[int, int]:
    """A `type` for argparse: FIRST-LAST."""
    first, _, last = text.partition("-")
    try:
        found = int(first), int(last)
    except ValueError:
        found = 0, 0
    if not FIRST_PORT <= found[0] <= found[1] <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"must be FIRST-LAST within {FIRST_PORT}-{LAST_PORT}, not {text!r}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Run the model nodes of this host, as the site orders."
    )
    add = parser.add_argument
    add("--url", required=True, help="address of the site")
    add(
        "--token-file",
        type=Path,
        required=True,
        help="file with the host's token, from `gainshare hosts add`",
    )
    add(
        "--folder",
        type=Path,
        required=True,
        help="private folder of this host's agent; one agent has it at a time",
    )
    add(
        "--devices",
        type=whole(1, MAX_DEVICES),
        default=1,
        help="how many devices this host has; each serves one node, and two for the time of a handover",
    )
    add("--kind", choices=DEVICES, default=CPU, help="what its nodes compute on")
    add(
        "--listen",
        default="127.0.0.1",
        help="address of this host at which its nodes listen, which the gateway must reach (default: 127.0.0.1)",
    )
    add(
        "--ports",
        type=port_range,
        default=(0, 0),
        help="FIRST-LAST: ports of its nodes (default: any free ones)",
    )
    add("--models", type=Path, help="the local store of models")
    add("--kernels", type=Path, help="compiled kernels that a new node begins with")
    add(
        "--level",
        default="",
        choices=["", *(level.value for level in SandboxLevel)],
        help="sandbox (default: the best)",
    )
    add(
        "--memory-gib",
        type=above(0),
        help="limit of each node's memory (default: three quarters of the machine's, divided by what may run at once: two "
        "nodes on each device, and the two of a canary)",
    )
    add("--start-s", type=above(0), default=600.0, help="end a node that is not ready after this time")
    add("--hung-s", type=above(0), default=5.0, help="report a node that answers nothing for this time")
    add("--hung-end-s", type=above(0), default=60.0, help="end a node that answers nothing for this time")
    add(
        "--drain-s",
        type=at_least(0),
        default=120.0,
        help=f"how long a draining node may finish what it has begun, {MOST_DRAIN_S:g} s at most",
    )
    add("--stop-s", type=at_least(0), default=120.0, help="the same when the agent itself is told to end")
    add("--notice-s", type=at_least(0), default=120.0, help="how long this host stays after a SIGUSR1")
    add("node", nargs=argparse.REMAINDER, help="after --: options of every node, as --cache-gib 2")
    return parser
