"""`python -m benchmarks.confined_node ... -- NODE OPTIONS`: a model node in a sandbox, behind a loopback port.

The first SIGTERM or SIGINT lets the node drain, the second ends it. Exit status: the node's; 2 for options that cannot
work, or where no sandbox of the level can be started.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import os
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from benchmarks.confined_node.folders import (
    SOCKET,
    NodeFolders,
    make_folders,
    make_readable,
    remove_old,
)
from benchmarks.confined_node.memory import default_memory_bytes
from benchmarks.confined_node.relay import Relay
from benchmarks.confined_node.start import NodeOrder, start
from benchmarks.faults import fault_point
from benchmarks.sandbox import Sample, SandboxError, SandboxLevel, best_level
from benchmarks.sandbox.devices import CPU, DEVICES
from benchmarks.sandbox.levels import GIB
from benchmarks.sandbox.readable import readable
from model.serving.node.listening import listen

WRONG = 2
FOREVER_S = 10 * 365 * 86_400.0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    node_arguments = [word for word in options.node if word != "--"]
    level = SandboxLevel(options.level) if options.level else None
    if level is SandboxLevel.NONE and options.code is not None:
        sys.stderr.write(
            "error: another tree than the installed one runs in a sandbox only: use another --level\n"
        )
        return WRONG
    if level is SandboxLevel.NONE:
        _become_unconfined(options, node_arguments)
    try:
        if any(word.split("=")[0] == "--upstream" for word in node_arguments):
            raise ValueError(
                "a node with --upstream needs the network: start it with python -m model.serving.node"
            )
        listener = listen(options.host, options.port)
        token = None if options.token_file is None else options.token_file.read_text(encoding="utf-8").strip()
        remove_old(options.folder)
        folders = make_folders(
            options.folder, code=options.code, kernels=options.kernels, token=token, seat=options.seat
        )
        if options.models is not None and options.models.is_dir():
            make_readable(options.models)
        order = NodeOrder(
            folders,
            level or best_level(),
            node_arguments,
            memory_bytes=int(options.memory_gib * GIB) if options.memory_gib else default_memory_bytes(),
            models=options.models,
            readable=options.readable,
            device=options.device,
            seat=options.seat,
            env=os.environ,
        )
        fault_point("node.start.before_sandbox")
        sample = start(order)
        fault_point("node.start.after_sandbox")
    except (OSError, ValueError, SandboxError) as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG
    _say(
        f"the node runs in the sandbox {order.level.value}, with at most {order.memory_bytes / GIB:.1f} GiB of memory"
    )
    return _serve(sample, listener, folders, order)


def _serve(sample: Sample, listener: socket.socket, folders: NodeFolders, order: NodeOrder) -> int:
    """Pass connections on until the node has ended; return its status."""
    speaking = threading.Thread(target=_pass_log_on, args=[sample], name="node-log", daemon=True)
    speaking.start()
    try:
        status = asyncio.run(_relay(sample, listener, folders.run))
        if sample.limit_hit() == "memory":
            _say(
                f"the node reached its limit of {order.memory_bytes / GIB:.1f} GiB of memory and was ended: raise "
                "GAINSHARE_NODE_MEMORY_GIB, or serve a smaller model"
            )
        return status
    finally:
        sample.close()
        speaking.join(5)
        shutil.rmtree(folders.run, ignore_errors=True)
        if folders.code.parent == folders.run.parent:
            shutil.rmtree(folders.code, ignore_errors=True)


async def _relay(sample: Sample, listener: socket.socket, run: Path) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, sample)
    relay = Relay(listener, run, SOCKET)
    await relay.start()
    status = await asyncio.to_thread(sample.wait, FOREVER_S)
    relay.close()
    return status


def _end(sample: Sample) -> None:
    """The first time the node is told to drain, the second time it is ended."""
    if sample.stdin.closed:
        threading.Thread(target=sample.kill, name="node-end").start()
    else:
        sample.stdin.close()


def _pass_log_on(sample: Sample) -> None:
    """What the node prints goes to stderr, safe to show: it may be written by merged code.

    What cannot be written is dropped, because a node whose pipe no one reads would block at its next line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while chunk := os.read(sample.stdout.fileno(), 65_536):
        with suppress(OSError):  # the disk is full
            sys.stderr.write(readable(decoder.decode(chunk)))
            sys.stderr.flush()


def _become_unconfined(options: argparse.Namespace, node_arguments: list[str]) -> None:
    """Level `none`: the node itself, in this process."""
    _say("the node is NOT confined: merged code in it reaches what this user reaches")
    where = ["--host", options.host, "--port", str(options.port)]
    token = ["--token-file", str(options.token_file)] if options.token_file else []
    argv = [sys.executable, "-m", "model.serving.node", *node_arguments, *where, *token]
    os.execv(sys.executable, argv)  # noqa: S606 - becoming the node is the purpose


def _say(what: str) -> None:
    with suppress(OSError):  # the disk is full
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.confined_node", description="Run a model node in a sandbox."
    )
    parser.add_argument(
        "--level", choices=[level.value for level in SandboxLevel], help="default: the best of this machine"
    )
    parser.add_argument("--folder", type=Path, required=True, help="private folder of this node alone")
    parser.add_argument(
        "--seat",
        type=int,
        default=0,
        help="0 to 63: as root, a user of its own for each node of this machine",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument(
        "--token-file", type=Path, help="requests must send this file's content as bearer token"
    )
    parser.add_argument("--models", type=Path, help="the local store of models, which the node may read")
    parser.add_argument("--kernels", type=Path, help="compiled kernels that a new node begins with")
    parser.add_argument(
        "--readable", type=Path, action="append", default=[], help="another folder that the node may read"
    )
    parser.add_argument(
        "--device", choices=DEVICES, default=CPU, help="what the node may compute on; cuda shows it the GPUs"
    )
    parser.add_argument(
        "--code", type=Path, help="the tree to serve (holds model/); default: the installed one"
    )
    parser.add_argument(
        "--memory-gib", type=float, help="limit of memory; default: three quarters of the machine's"
    )
    parser.add_argument(
        "node", nargs=argparse.REMAINDER, help="after --: options of the node, as --model NAME"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
