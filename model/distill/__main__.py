"""Cache a teacher's outputs on a run's data, so that the run learns from them without the teacher.

    python -m model.distill fill RUN.toml TEACHER     into the folder that RUN.toml names: [distillation] cache
    python -m model.distill show CACHE [--verify]     what a cache holds

A partly filled cache is completed; it can be used by all runs with the same data, tokenizer, sequence length and
temperature. Progress is on stderr, results on stdout. Exit status: 0 done, 1 failed, 2 wrong command line or run,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.checkpoint import CheckpointError
from model.command_errors import CommandParser, failed
from model.config import ConfigError
from model.data.errors import DataError
from model.distill.cache import CachedTeacher
from model.distill.errors import CacheError, IncompatibleError
from model.distill.fill import fill
from model.progress_lines import ProgressLines
from model.training.config.run_config import read_run_config
from model.training.run.faults import is_out_of_memory

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        document = options.run(options)
    except (ConfigError, IncompatibleError) as error:
        return failed(str(error), "usage", 2, as_json=options.json)
    except (CheckpointError, DataError, CacheError) as error:
        return failed(str(error), "unusable", 1, as_json=options.json)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return failed(message, "os_error", 1, as_json=options.json)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory: raise [compute] micro_batches, then run the same command to continue"
        return failed(message, "out_of_memory", 1, as_json=options.json)
    except KeyboardInterrupt:
        message = "interrupted: finished shards are kept; run the same command to continue"
        return failed(message, "interrupted", INTERRUPTED, as_json=options.json)
    sys.stdout.write(json.dumps(document) + "\n" if options.json else options.text(document))
    return 0


def _fill(options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    lines = ProgressLines(tokens_line)
    filled = fill(
        read_run_config(options.config),
        options.teacher,
        k=options.k,
        steps=options.steps,
        report=lambda done, total: lines("teacher", done, total),
    )
    return {
        "cache": str(filled.folder),
        "precision": filled.precision,
        "tokens_computed": filled.n_computed,
        "tokens_known": filled.n_known,
        "tokens": filled.n_tokens,
        "bytes": filled.n_bytes,
        "seconds": round(time.monotonic() - started, 3),
    }


def tokens_line(stage: str, done: int, total: int | None) -> str:
    return f"{stage}: {done:,} of about {total:,} tokens"


def _filled_text(document: Mapping[str, Any]) -> str:
    return (
        f"{document['cache']} is ready after {document['seconds']:.0f} s: {document['tokens_computed']:,} tokens computed "
        f"in {document['precision']}, {document['tokens_known']:,} cached before; it has {document['tokens']:,} "
        f"({document['bytes'] / 1e6:.1f} MB)\n"
    )


def _show(options: argparse.Namespace) -> dict[str, Any]:
    cache = CachedTeacher.open(options.cache)
    shards = cache.verify() if options.verify else None
    return {
        "cache": str(cache.folder),
        **asdict(cache.manifest),
        "tokens": cache.n_tokens,
        "bytes": cache.n_bytes,
        "verified_shards": shards,
    }


def _shown_text(document: Mapping[str, Any]) -> str:
    lines = [f"{name.replace('_', ' '):<16}{value}" for name, value in document.items() if value is not None]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m model.distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill", help="run the teacher on the data of a run")
    filling.set_defaults(run=_fill, text=_filled_text)
    filling.add_argument(
        "config", type=Path, metavar="RUN.toml", help="the student's run, as for gainshare train"
    )
    filling.add_argument(
        "teacher", type=Path, metavar="TEACHER", help="a model folder with the data's tokenizer"
    )
    filling.add_argument(
        "--k", type=_count, default=32, help="likeliest tokens to keep at each position (default: 32)"
    )
    filling.add_argument(
        "--steps", type=_count, help="compute the first steps only (default: the run's budget)"
    )
    showing = commands.add_parser("show", help="print a cache's content, and check its files")
    showing.set_defaults(run=_show, text=_shown_text)
    showing.add_argument("cache", type=Path, metavar="CACHE")
    showing.add_argument(
        "--verify", action="store_true", help="read every byte and compare it with the checksums"
    )
    for command in (filling, showing):
        command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
