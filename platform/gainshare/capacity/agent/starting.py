"""Starts a node in its sandbox, in a berth whose lock it holds from then on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.confined_node.folders import BERTHS
from benchmarks.confined_node.memory import default_memory_bytes
from benchmarks.faults import fault_point
from benchmarks.patch.blobs import SHA256
from benchmarks.sandbox.devices import CUDA
from benchmarks.sandbox.levels import GIB, SandboxLevel
from gainshare.capacity.agent.devices import Device
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.protocol import MODEL_NAME, NodeOrder
from gainshare.capacity.agent.records import Record, read_record, write_private, write_record

BUILT_IN = ("tiny",)


class Refused(Exception):
    """An order that this agent does not carry out; the message says why."""


class DeviceTaken(Exception):
    """Another process holds the device: a node that still runs there."""


def check_order(order: NodeOrder, models: Path | None, level: str = "") -> None:
    """Raises Refused for a model that is not one of the store's, or a tree that no node can execute here."""
    check_model(order.model, models)
    if order.tree and not SHA256.fullmatch(order.tree):
        raise Refused(f"{order.tree[:64]!r} is no hash of a tree")
    if order.tree and level == SandboxLevel.NONE:
        raise Refused("this agent has no sandbox (--level none), and runs the installed tree only")


def check_model(model: str, models: Path | None) -> None:
    """Raises Refused for a model that is not one of the store's."""
    if not MODEL_NAME.fullmatch(model) or ".." in model:
        raise Refused(f"{model[:60]!r} is no name of a model in a store")
    if model not in BUILT_IN and (models is None or not (models / model).is_dir()):
        raise Refused(f"this host's store has no model {model!r}: fetch it there first")


def start(
    order: NodeOrder, device: Device, options: AgentOptions, code: Path | None = None
) -> tuple[subprocess.Popen[bytes], Record]:
    """Start the node of an order. Raises Refused, DeviceTaken or OSError.

    ``code`` is the folder of the order's tree, None for the installed one. The record is written before
    the process exists: an agent that finds the lock held can read what holds it.
    """
    check_order(order, options.models, options.level)
    with device.taken() as descriptor:
        if descriptor is None or device.leftovers():
            raise DeviceTaken(f"{device.name} is taken")
        if bool(order.tree) != (code is not None):
            raise Refused(f"the tree {order.tree[:12] or 'installed'} and its folder do not belong together")
        record = Record(order.node, order.model, free_port(options.listen, options.ports), order.tree)
        remove_state(order, device)
        write_private(device.token, order.token)
        write_record(device.record, record)
        fault_point("agent.start.after_record")
        if device.berth:
            fault_point("agent.start.second_berth")
        device.cut_log()
        with device.log.open("ab") as log:
            process = subprocess.Popen(
                command(order, device, options, record.port, code),
                env=environment(device.number, options, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(descriptor,),
            )
    fault_point("agent.start.after_spawn")
    if device.berth:
        fault_point("agent.start.second_berth_runs")
    return process, record


def remove_state(order: NodeOrder, device: Device) -> None:
    """Remove what the berth's last node kept, unless both it and the new one are of installed code.

    A deployed tree may leave compiled code, or what it was asked, for the code that executes or reads it next. Raises OSError.
    """
    before = read_record(device.record)
    if device.node.exists() and (order.tree or before is None or before.tree):
        shutil.rmtree(device.node)


def node_memory_gib(options: AgentOptions) -> float:
    """The limit of one node's memory, and of each of a canary's two.

    Without an option three quarters of the machine are divided by what may run at once: two nodes on each device, and a
    canary's two.
    """
    most = BERTHS * options.devices + 2
    return options.memory_gib or default_memory_bytes() / GIB / most


def command(
    order: NodeOrder, device: Device, options: AgentOptions, port: int, code: Path | None = None
) -> list[str]:
    """The starter's command line. The token is in a file."""
    given = {
        "--level": options.level,
        "--folder": str(device.node),
        "--host": options.listen,
        "--port": str(port),
        "--token-file": str(device.token),
        "--models": str(options.models or ""),
        "--kernels": str(options.kernels or ""),
        "--memory-gib": f"{node_memory_gib(options):.3f}",
        "--device": options.kind,
        "--seat": str(device.seat),
        "--code": str(code or ""),
    }
    own = [word for name, value in given.items() if value for word in (name, value)]
    node = ["--model", order.model, "--drain-s", f"{options.drain_s:g}", *options.node]
    return [sys.executable, "-m", "benchmarks.confined_node", *own, "--", *node]


def environment(number: int, options: AgentOptions, outer: Mapping[str, str]) -> dict[str, str]:
    """Environment of a starter on a device: this process's own, and one GPU. The node inherits nothing of it."""
    found = dict(outer)
    if options.kind == CUDA:
        visible = (
            outer.get("CUDA_VISIBLE_DEVICES", "").split(",") if outer.get("CUDA_VISIBLE_DEVICES") else []
        )
        found["CUDA_VISIBLE_DEVICES"] = visible[number] if number < len(visible) else str(number)
    return found


def free_port(address: str, ports: tuple[int, int]) -> int:
    """A port of the range, or any, that nothing listens on at this moment. Raises Refused if all are taken."""
    first, last = ports
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(first, last + 1):
        with closing(socket.socket(family)) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return int(probe.getsockname()[1])
    raise Refused(f"no port of {first}-{last} is free at {address}")
