"""A cluster of equal devices, read from TOML. Does not import torch."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

CLUSTERS = Path(__file__).parent / "clusters"


class ClusterError(ValueError):
    """A cluster description that cannot be used; the message names the key and the rule."""


@dataclass(frozen=True)
class Network:
    """The network between the ranks of one group, as seen by one rank."""

    n_ranks: int
    n_local: int  # ranks of the group on one node, itself included
    gb_s: float  # per rank and direction in a ring over all of them
    latency_us: float  # of one message


@dataclass(frozen=True)
class Cluster:
    """Equal devices, `devices_per_node` to a node, neighbours in rank on the same node.

    Bandwidths are 1e9 bytes per second, per device and direction. `efficiency` and `expert_efficiency` are the
    shares of peak `flops` that plain and grouped GEMMs reach. `reserved_gib` of the memory is not for tensors.
    """

    name: str
    source: str  # where the figures are from
    devices_per_node: int
    memory_gib: float
    flops: float
    memory_gb_s: float
    intra_gb_s: float
    inter_gb_s: float
    efficiency: float = 1.0
    expert_efficiency: float = 1.0
    reserved_gib: float = 0.0
    intra_latency_us: float = 0.0
    inter_latency_us: float = 0.0

    def __post_init__(self) -> None:
        for name in ("devices_per_node", "memory_gib", "flops", "memory_gb_s", "intra_gb_s", "inter_gb_s"):
            if not getattr(self, name) > 0:
                raise ClusterError(f"{name} must be above 0")
        for name in ("efficiency", "expert_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ClusterError(f"{name} must be above 0 and at most 1: it is a share of peak")
        for name in ("reserved_gib", "intra_latency_us", "inter_latency_us"):
            if getattr(self, name) < 0:
                raise ClusterError(f"{name} must not be negative")
        if self.reserved_gib >= self.memory_gib:
            raise ClusterError("reserved_gib leaves no memory for tensors")

    @property
    def usable_bytes(self) -> float:
        return (self.memory_gib - self.reserved_gib) * 2**30

    def network(self, stride: int, n_ranks: int) -> Network:
        """The network between `n_ranks` ranks at distance `stride`.

        A ring that leaves the node has an adapter per local member, so its bandwidth grows with their number until
        the links within the node are the limit.
        """
        n_local = min(n_ranks, max(1, self.devices_per_node // stride))
        if n_local == n_ranks:
            return Network(n_ranks, n_local, self.intra_gb_s, self.intra_latency_us)
        return Network(
            n_ranks, n_local, min(self.intra_gb_s, self.inter_gb_s * n_local), self.inter_latency_us
        )


def read_cluster(name_or_file: str) -> Cluster:
    """Read a shipped cluster, by name, or a TOML file. Raises ClusterError."""
    path = CLUSTERS / f"{name_or_file}.toml"
    if not path.is_file():
        path = Path(name_or_file)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClusterError(
            f"there is no cluster {name_or_file!r}: use one of {', '.join(shipped())}, or a TOML file with the same keys"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ClusterError(f"{path} cannot be read: {error}") from error
    return cluster_from(values, str(path))


def shipped() -> list[str]:
    return sorted(path.stem for path in CLUSTERS.glob("*.toml"))


def cluster_from(values: dict[str, Any], where: str) -> Cluster:
    """Make a cluster from a table. Raises ClusterError for a key that is unknown, missing or of the wrong type."""
    known = {field.name: str(field.type) for field in fields(Cluster)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ClusterError(
                f"{where}: unknown key {key!r}{f', did you mean {near[0]!r}?' if near else ''}"
            )
        is_text = known[key] == "str"
        if (
            isinstance(value, bool)
            or isinstance(value, str) != is_text
            or not isinstance(value, str | int | float)
        ):
            raise ClusterError(f"{where}: {key} must be a {'text' if is_text else 'number'}, not {value!r}")
        if known[key] == "int" and not isinstance(value, int):
            raise ClusterError(f"{where}: {key} must be a whole number, not {value!r}")
    try:
        return Cluster(**values)
    except ClusterError as error:
        raise ClusterError(f"{where}: {error}") from None
    except TypeError as error:
        raise ClusterError(f"{where}: {str(error).removeprefix('Cluster.__init__() ')}") from None
