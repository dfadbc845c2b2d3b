"""Starts a node in its sandbox, on a device whose lock it holds from then on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.confined_node.memory import default_memory_bytes
from benchmarks.faults import fault_point
from benchmarks.sandbox.devices import CUDA
from benchmarks.sandbox.levels import GIB
from gainshare.capacity.agent.devices import Device
from gainshare.capacity.agent.options import AgentOptions
from gainshare.capacity.agent.protocol import MODEL_NAME, NodeOrder
from gainshare.capacity.agent.records import Record, write_private, write_record

BUILT_IN = ("tiny",)


class Refused(Exception):
    """An order that this agent does not carry out; the message says why."""


class DeviceTaken(Exception):
    """Another process holds the device: a node that still runs there."""


def check_order(order: NodeOrder, models: Path | None) -> None:
    """Raises Refused for a model that is not one of the store's, or a tree other than the installed one."""
    if not MODEL_NAME.fullmatch(order.model) or ".." in order.model:
        raise Refused(f"{order.model[:60]!r} is no name of a model in a store")
    if order.tree:
        raise Refused(f"this agent runs the installed tree only, not {order.tree[:12]}")
    if order.model not in BUILT_IN and (models is None or not (models / order.model).is_dir()):
        raise Refused(f"this host's store has no model {order.model!r}: fetch it there first")


def start(order: NodeOrder, device: Device, options: AgentOptions) -> tuple[subprocess.Popen[bytes], Record]:
    """Start the node of an order. Raises Refused, DeviceTaken or OSError.

    The record is written before the process exists: an agent that finds the lock held can read what holds it.
    """
    check_order(order, options.models)
    with device.taken() as descriptor:
        if descriptor is None or device.leftovers():
            raise DeviceTaken(f"device {device.number} is taken")
        record = Record(order.node, order.model, free_port(options.listen, options.ports))
        write_private(device.token, order.token)
        write_record(device.record, record)
        fault_point("agent.start.after_record")
        device.cut_log()
        with device.log.open("ab") as log:
            process = subprocess.Popen(
                command(order, device, options, record.port),
                env=environment(device, options, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(descriptor,),
            )
    fault_point("agent.start.after_spawn")
    return process, record


def command(order: NodeOrder, device: Device, options: AgentOptions, port: int) -> list[str]:
    """The starter's command line. The token is in a file."""
    memory_gib = options.memory_gib or default_memory_bytes() / GIB / options.devices
    given = {
        "--level": options.level,
        "--folder": str(device.node),
        "--host": options.listen,
        "--port": str(port),
        "--token-file": str(device.token),
        "--models": str(options.models or ""),
        "--kernels": str(options.kernels or ""),
        "--memory-gib": f"{memory_gib:.3f}",
        "--device": options.kind,
        "--seat": str(device.number),
    }
    own = [word for name, value in given.items() if value for word in (name, value)]
    node = ["--model", order.model, "--drain-s", f"{options.drain_s:g}", *options.node]
    return [sys.executable, "-m", "benchmarks.confined_node", *own, "--", *node]


def environment(device: Device, options: AgentOptions, outer: Mapping[str, str]) -> dict[str, str]:
    """The starter's environment: this process's own, and one GPU for each device. The node inherits nothing of it."""
    found = dict(outer)
    if options.kind == CUDA:
        visible = (
            outer.get("CUDA_VISIBLE_DEVICES", "").split(",") if outer.get("CUDA_VISIBLE_DEVICES") else []
        )
        found["CUDA_VISIBLE_DEVICES"] = (
            visible[device.number] if device.number < len(visible) else str(device.number)
        )
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
