"""`python -m model.hf import|export SOURCE TARGET`: whole model folders from and to Hugging Face's format.

The result goes to stdout, notes and errors to stderr. Exit status 0 when the folder was written, 1 when it was not.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import torch

from model.checkpoint import CheckpointError
from model.command_errors import CommandParser, failed
from model.hf.convert import export_folder, import_folder
from model.hf.errors import UnsupportedModel
from model.hf.families.registry import FAMILIES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s", stream=sys.stderr)
    try:
        result = _convert(options)
    except (UnsupportedModel, CheckpointError, OSError) as error:
        return failed(str(error), "conversion_failed", as_json=options.json)
    folder, kind = result["folder"], result["model"]
    sys.stdout.write(json.dumps(result) + "\n" if options.json else f"{kind} is ready: {folder}\n")
    return 0


def _convert(options: argparse.Namespace) -> dict[str, str]:
    target: Path = options.target
    if options.command == "import":
        import_folder(
            options.source,
            target,
            dtype=DTYPES.get(options.dtype),
            with_tokenizer=not options.without_tokenizer,
        )
        return {"model": target.name, "folder": str(target)}
    architecture = export_folder(
        options.source, target, model_type=options.family, is_unshared=options.unshare
    )
    return {"model": architecture, "folder": str(target)}


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m model.hf", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser(
        "import", help="convert a folder that save_pretrained wrote to one of ours"
    )
    importing.add_argument(
        "--dtype", choices=DTYPES, help="convert the weights to this format (default: keep theirs)"
    )
    importing.add_argument(
        "--without-tokenizer",
        action="store_true",
        help="import without tokenizer, template and stop tokens, for training and evaluation only",
    )
    exporting = commands.add_parser(
        "export", help="convert a folder of ours to one that from_pretrained reads"
    )
    exporting.add_argument("--family", choices=FAMILIES, help="the model type (default: the first that fits)")
    exporting.add_argument(
        "--unshare",
        action="store_true",
        help="give layers that share weights a copy each; outputs stay the same",
    )
    for command in (importing, exporting):
        command.add_argument("source", type=Path, help="the folder to read")
        command.add_argument("target", type=Path, help="the folder to write; it must not exist yet")
        command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
