"""Command line of `gainshare train`: read a run's file, train, and report the result or the error.

Progress goes to standard error, the result to standard output.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from model.command_errors import CommandParser
from model.config import ConfigError
from model.training.config.run_config import RunConfig, read_run_config
from model.training.run.folder import RunFolder
from model.training.run.host_memory import keep_freed_memory

if TYPE_CHECKING:
    from model.training.run.run import Result

DESCRIPTION = """Train a model as a TOML file says. Where the file names no precision, or 'auto', the run chooses when it
starts: on a CPU bf16 or fp32 by the rates of products, measured in a fraction of a second; on CUDA bf16, or fp16 where
the GPU has no bf16. The first line of the progress says which, and why. A resumed run keeps its precision."""
EPILOG = """exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 out of memory, 4 loss not finite, 5 disk full,
6 data unusable, 7 checkpoint unusable, 8 output in use, 9 another process lost, 130 interrupted by Ctrl-C, 143 by SIGTERM (both after saving)"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns an exit status of docs/reference/training.md."""
    options = _parser().parse_args(arguments)
    errors = Console(stderr=True)
    command = f"gainshare train {shlex.quote(str(options.config))}"
    try:
        try:
            return _run(options, command, errors)
        except Exception as error:
            return _explain(error, command, options, errors)
    except KeyboardInterrupt:
        return _interrupted(options, command, errors)


def _run(options: argparse.Namespace, command: str, errors: Console) -> int:
    if options.steps is not None and options.steps < 1:
        raise ConfigError("--steps must be at least 1")
    if options.export is not None and (options.steps is not None or options.resume):
        raise ConfigError("--export trains nothing: leave --steps and --resume out")
    config = read_run_config(options.config)
    if options.export is not None:
        document: dict[str, Any] = _export(config, options.export)
        status = 0
    else:
        result = _train(config, options, errors)
        document, status = asdict(result), result.exit_status
        if not options.json:
            _print_result(result, command, errors)
    if options.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif options.export is not None:
        sys.stdout.write(f"wrote {options.export}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="gainshare train", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "config", type=Path, help="the run's file; docs/reference/training.md describes its keys"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument(
        "--steps", type=int, help="stop when this many steps are done in all; --resume continues from there"
    )
    parser.add_argument(
        "--export", type=Path, help="train nothing: write the newest checkpoint's model into this folder"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


def _train(config: RunConfig, options: argparse.Namespace, errors: Console) -> Result:
    keep_freed_memory()
    # torch takes seconds to import: usage and configuration have been checked by then.
    from model.training.report.progress import progress_on
    from model.training.run.data import open_data
    from model.training.run.run import train
    from model.training.run.setup import device_of

    data = open_data(config, pin=device_of(config).type == "cuda")
    return train(
        config,
        data,
        is_resumed=options.resume,
        stop_at=options.steps,
        observers=[progress_on(errors)],
    )


def _export(config: RunConfig, folder: Path) -> dict[str, Any]:
    from model.training.run.export import export_newest

    step = export_newest(RunFolder(config.output).checkpoints, folder)
    return {"model": str(folder), "step": step}


def _print_result(result: Result, command: str, errors: Console) -> None:
    lines = [f"{result.reason}: {result.step:,} steps, {result.tokens:,} tokens"]
    if result.loss is not None:
        lines.append(f"  loss        {result.loss:.4f}")
    if result.held_out_loss is not None:
        lines.append(f"  held out    {result.held_out_loss:.4f}")
    lines += [
        f"  {name:<11} {value}"
        for name in ("checkpoint", "model", "log")
        if (value := getattr(result, name)) is not None
    ]
    lines.append(f"  curves      tensorboard --logdir {shlex.quote(result.tensorboard)}")
    sys.stdout.write("\n".join(lines) + "\n")
    if result.model is None:
        errors.print(f"continue with: {escape(command)} --resume", highlight=False, soft_wrap=True)


def _explain(error: Exception, command: str, options: argparse.Namespace, errors: Console) -> int:
    """Print the fault behind an error; raise an unforeseen error."""
    from model.training.run.faults import explain

    fault = explain(error, command, is_resumed=options.resume)
    if fault is None:
        raise error
    _print_error(fault.code, str(fault), as_json=options.json, errors=errors)
    return fault.exit_status


def _interrupted(options: argparse.Namespace, command: str, errors: Console) -> int:
    """Report the checkpoint to resume from after a Ctrl-C that ended the run at once."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        saved = RunFolder(read_run_config(options.config).output).saved()
    except (ConfigError, OSError):
        saved = []
    message = f"interrupted: nothing was saved yet; start again with `{command}`"
    if saved:
        message = f"interrupted: `{command} --resume` continues from {saved[-1]}"
    _print_error("interrupted", message, as_json=options.json, errors=errors)
    signal.signal(signal.SIGINT, before)
    return 128 + signal.SIGINT


def _print_error(code: str, message: str, *, as_json: bool, errors: Console) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message}}, indent=2) + "\n")
    else:
        errors.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
