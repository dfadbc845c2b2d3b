"""What an agent and the site tell each other: limits, and the messages as plain values. Both sides import this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

HEARTBEAT_PATH = "/api/v1/agent/heartbeat/"
TREE_PATH = "/api/v1/agent/trees/{tree}/"  # GET: a deployed tree's manifest
BLOB_PATH = "/api/v1/agent/blobs/{sha256}/"  # GET: bytes of one of its files
KEY_PATH = "/api/v1/agent/key/"  # POST {"public_key"}: once a token
CANARY_PATH = "/api/v1/agent/canaries/{id}/"  # POST {"document"} or {"failed": reason, "is_of_tree"?}
HEARTBEAT_S = 1.0
MOST_DRAIN_S = 120.0  # of a node, by its agent's options
MAX_DEVICES = 16  # of a host; each has a uid of its own, where its agent is root
MAX_REPORTED = 64  # entries of each list of a heartbeat
MAX_REQUESTS = 1_000_000
MAX_TEXT = 300
MAX_PROGRESS = 200
MAX_CANARY_BYTES = 8 << 20  # of a canary's document
FIRST_PORT, LAST_PORT = 1024, 65535

STARTING, READY, HUNG, DRAINING = "starting", "ready", "hung", "draining"
STATES = (STARTING, READY, HUNG, DRAINING)

# A model is named like a folder of the store: never a path, never an option.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True, slots=True)
class Load:
    """Load of a node: requests that are answered, those that wait, and the share of the cache in use."""

    running: int = 0
    waiting: int = 0
    cache_use: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One berth of a device. ``node`` is what runs there; None: the berth is free."""

    device: int
    node: UUID | None = None
    state: str = STARTING
    port: int | None = None
    load: Load | None = None
    berth: int = 0


@dataclass(frozen=True, slots=True)
class EndedReport:
    """A node that has ended, or was not started, and why."""

    node: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """The canary that runs here. ``progress`` is for people, as "decode at 4: 6 of 30 pairs"."""

    id: UUID
    progress: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One heartbeat. ``agent`` is new at each start of an agent; ``beat`` counts from 1 within it.

    ``n_devices`` is how many devices may get nodes; 0 while the agent ends. ``leaves_in_s`` is a notice of preemption.
    """

    agent: UUID
    beat: int
    n_devices: int
    devices: tuple[DeviceReport, ...]
    ended: tuple[EndedReport, ...] = ()
    version: str = ""
    problem: str = ""
    leaves_in_s: int | None = None
    canary: CanaryReport | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            **{
                name: getattr(self, name)
                for name in ("beat", "n_devices", "version", "problem", "leaves_in_s")
            },
            "agent": str(self.agent),
            "devices": [
                {**asdict(report), "node": str(report.node) if report.node else None}
                for report in self.devices
            ],
            "canary": None
            if self.canary is None
            else {"id": str(self.canary.id), "progress": self.canary.progress},
            "ended": [{"node": str(report.node), "reason": report.reason} for report in self.ended],
        }


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """A node that the site wants on a device. ``token`` is the node's own; ``tree`` is empty for the installed code."""

    node: UUID
    device: int
    model: str
    tree: str
    token: str = field(repr=False)
    is_draining: bool
    berth: int = 0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NodeOrder:
        """Raises ValueError, KeyError or TypeError for something else."""
        return cls(
            node=UUID(document["node"]),
            device=int(document["device"]),
            model=str(document["model"]),
            tree=str(document["tree"]),
            token=str(document["token"]),
            is_draining=bool(document["is_draining"]),
            berth=int(document.get("berth", 0)),
        )
