"""The node's command line: options, port, signals and exit status.

Exit status 0 after SIGTERM or SIGINT, 2 for options that cannot work, 1 when the model cannot be loaded.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

import torch
import uvicorn

from model.checkpoint import CheckpointError
from model.serving.engine import EngineLimits
from model.serving.hardware import add_options, load_on, read_options
from model.serving.node import Node
from model.serving.served import ServedModel, find_folder

SHUTDOWN_S = 10  # answers in flight may take this long to end after SIGTERM


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        token = _read_token(options.token_file)
        hardware = read_options(options)
        find_folder(options.model, options.home)  # a missing model should not take until after start-up
        listener = _listen(options.host, options.port)
    except (CheckpointError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    if options.threads:
        torch.set_num_threads(options.threads)
    limits = EngineLimits(max_running=options.max_running, max_waiting=options.max_waiting)

    def give_up(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises a signal again for these handlers once it has shut down in good order
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)

    def load() -> ServedModel:
        threads = options.threads
        return load_on(hardware, options.model, options.home, limits, threads=threads, on_loss=node.fail)

    node = Node(load, limits=limits, token=token, on_failure=give_up)
    config = uvicorn.Config(
        node.app(),
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=75,  # longer than a gateway's own, so that it closes idle connections first
        server_header=False,
    )
    server = uvicorn.Server(config)
    host, port = listener.getsockname()[:2]
    sys.stderr.write(f"model node {options.model} listens on http://{host}:{port}\n")
    sys.stderr.flush()
    server.run(sockets=[listener])
    if node.failure is not None:
        sys.stderr.write(f"error: {node.failure}\n")
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.serving.node", description="Serves one model over HTTP."
    )
    parser.add_argument("--model", required=True, help="smollm2-moe, tiny (random weights) or a model folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100, help="0 takes a free one; it is printed on stderr")
    parser.add_argument(
        "--token-file", type=Path, help="requests must carry this file's content as bearer token"
    )
    parser.add_argument("--home", type=Path, help="state folder (default: GAINSHARE_HOME, else .gainshare)")
    parser.add_argument(
        "--threads", type=int, help="threads per matrix product (default: torch's own choice)"
    )
    parser.add_argument("--max-running", type=int, default=EngineLimits.max_running)
    parser.add_argument(
        "--max-waiting", type=int, default=EngineLimits.max_waiting, help="more are answered 429"
    )
    add_options(parser)
    return parser


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return None
    token = file.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{file} holds no token")
    return token


def _listen(host: str, port: int) -> socket.socket:
    """Binds before anything is loaded, so that a taken port is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's delay off: each streamed token leaves at once.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another with --port"
        ) from error
    return listener
