"""The node's command line: options, port, signals and exit status.

Exit status 0 after SIGTERM or SIGINT, 2 for options that cannot work, alone, together or with the model's shape, 1 when
the model cannot be loaded.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import torch

from model.checkpoint import CheckpointError
from model.hf.errors import UnsupportedModel
from model.serving.api.errors import LoadError
from model.serving.engine.cores import bind, parsed
from model.serving.executors.choice import blocks_within
from model.serving.executors.hardware import Hardware, add_options, check_shape, load_on, read_options
from model.serving.metering.generation import EngineLimits
from model.serving.node.app import Node
from model.serving.node.early_signals import SIGNALS
from model.serving.node.host import Host, Load, OnDeath
from model.serving.node.listening import listen, listen_at
from model.serving.node.loading import check_found, without_running_out
from model.serving.node.options import above, at_least, whole
from model.serving.node.process import DrainingServer, serve
from model.serving.node.served import find_folder, served_config
from model.serving.node.service import Service
from model.serving.upstream.probe import upstream_loader

DRAIN_S = 10.0
GIB = 1 << 30
LEAST_ITEMSIZE = 2  # of keys and values: a lower bound, known exactly after loading


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        token = _read_secret(options.token_file)
        loader = _upstream(options) if options.upstream else _bundled(options)
        listener = listen_at(options.socket) if options.socket else listen(options.host, options.port)
    except (CheckpointError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)

    def give_up(*_: object) -> None:
        server.should_exit = True

    host = Host(loader, drain_s=options.drain_s, on_failure=give_up)
    server = DrainingServer(Node(host, token=token).app(), host)
    # until the server handles signals itself; it may raise one again after an orderly end
    for number in SIGNALS:
        signal.signal(number, give_up)
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    sys.stderr.write(f"model node {options.upstream or options.model} listens on {_address(listener)}\n")
    sys.stderr.flush()
    serve(server, host, listener)
    if host.failure is not None:
        sys.stderr.write(f"error: {host.failure}\n")
        sys.exit(1)


def _end_with_stdin() -> None:
    """Drain as by SIGTERM once stdin is at its end: the process that started the node closed it, or has ended.

    It reads around sys.stdin: a node that ends while this thread is inside of that would be aborted by Python.
    """
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _address(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"the socket {listener.getsockname()}"
    address, port = listener.getsockname()[:2]
    return f"http://{address}:{port}"


def _bundled(options: argparse.Namespace) -> Load:
    """Make the loader of the bundled engine's models. Raises CheckpointError if the first one is missing, or ValueError."""
    if not options.model:
        raise ValueError("choose a model with --model, or another server with --upstream")
    find_folder(options.model, options.home)  # report a missing model before start-up
    limits = _limits(options)
    hardware = read_options(options)
    _check_model(options, hardware, limits)
    if options.cores is not None:
        bind(parsed(options.cores))
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    def load_service(name: str | None, on_death: OnDeath) -> Service:
        if name is not None and hardware.degrees.n_ranks > 1:
            message = "a node of several ranks cannot swap its model: start another node with the new model, then end this one"
            raise LoadError(409, "swap_unsupported", message)
        model = name or options.model
        check_found(model, options.home)
        served = without_running_out(
            lambda: load_on(hardware, model, options.home, limits, threads=options.threads, on_loss=on_death)
        )
        return without_running_out(lambda: Service(served, limits, on_death))

    return load_service


def _limits(options: argparse.Namespace) -> EngineLimits:
    """Raises ValueError where a step could not carry all answers."""
    if options.max_running >= options.step_tokens:
        raise ValueError(
            f"--max-running {options.max_running} must be below --step-tokens {options.step_tokens}: a step computes a "
            "token of each answer and some of a prompt"
        )
    return EngineLimits(
        max_running=options.max_running,
        max_waiting=options.max_waiting,
        step_tokens=options.step_tokens,
        max_cache_bytes=int(options.cache_gib * GIB),
        max_drafts=options.max_drafts,
    )


def _check_model(options: argparse.Namespace, hardware: Hardware, limits: EngineLimits) -> None:
    """Raises ValueError where the model's shape rules the options out."""
    try:
        config = served_config(options.model, options.home)
    except (CheckpointError, UnsupportedModel):
        return  # not an error of the options: loading reports it
    check_shape(hardware, config)
    blocks_within(config, LEAST_ITEMSIZE, limits)


def _upstream(options: argparse.Namespace) -> Load:
    """Make the loader of an upstream server's models."""
    return upstream_loader(
        options.upstream,
        _read_secret(options.upstream_key_file),
        model=options.model,
        tokenizer_folder=options.tokenizer,
        max_context=options.max_context,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.serving.node", description="Serve one model over HTTP."
    )
    parser.add_argument(
        "--model",
        help="smollm2-moe, smollm2-moe-small, tiny (random weights) or a model folder, ours or Hugging Face's; with --upstream the server's model name",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=8100, help="0: a free one, printed on stderr (default: 8100)"
    )
    parser.add_argument(
        "--socket", type=Path, help="listen on this unix socket instead, whose folder decides who may connect"
    )
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end as by SIGTERM when stdin is closed, for a starter that cannot send signals into a sandbox",
    )
    parser.add_argument(
        "--token-file", type=Path, help="requests must send this file's content as bearer token"
    )
    parser.add_argument("--home", type=Path, help="state folder (default: GAINSHARE_HOME, else .gainshare)")
    parser.add_argument(
        "--threads",
        type=whole(1),
        help="threads per matrix product (default: torch's own choice); `python -m model.serving.engine.tune` finds the best",
    )
    parser.add_argument(
        "--cores",
        metavar="LIST",
        help="bind the node to these cores, as 0-3,8 (default: all that it may use)",
    )
    _add_limits(parser)
    parser.add_argument(
        "--drain-s",
        type=at_least(0),
        default=DRAIN_S,
        help="how long running answers may take after SIGTERM",
    )
    add_options(parser)
    upstream = parser.add_argument_group("upstream server")
    upstream.add_argument(
        "--upstream", metavar="URL", help="an OpenAI-compatible server, as http://host:8000/v1"
    )
    upstream.add_argument("--upstream-key-file", type=Path, help="its API key")
    upstream.add_argument(
        "--tokenizer",
        type=Path,
        help="folder with its tokenizer.json and chat_template.jinja, to count tokens",
    )
    upstream.add_argument(
        "--max-context", type=whole(1), help="its context length, if the server does not report it"
    )
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-running",
        type=whole(1),
        default=EngineLimits.max_running,
        help=f"answers in progress at once (default: {EngineLimits.max_running})",
    )
    parser.add_argument(
        "--max-waiting",
        type=whole(1),
        default=EngineLimits.max_waiting,
        help=f"requests in the queue; more are answered 429 (default: {EngineLimits.max_waiting})",
    )
    parser.add_argument(
        "--step-tokens",
        type=whole(2),
        default=EngineLimits.step_tokens,
        help="tokens of answers and prompts in one step; more read prompts faster but delay the next tokens of answers "
        f"(default: {EngineLimits.step_tokens})",
    )
    parser.add_argument(
        "--cache-gib",
        type=above(0),
        default=EngineLimits.max_cache_bytes / GIB,
        help="maximum size of the key/value cache in GiB; it is smaller if a few whole contexts per running answer need "
        f"less (default: {EngineLimits.max_cache_bytes / GIB:g})",
    )
    parser.add_argument(
        "--max-drafts",
        type=whole(0),
        default=EngineLimits.max_drafts,
        help="draft tokens that a step may verify for each answer; 0: no speculation "
        f"(default: {EngineLimits.max_drafts})",
    )


def _read_secret(file: Path | None) -> str | None:
    if file is None:
        return None
    token = file.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{file} contains no token")
    return token
