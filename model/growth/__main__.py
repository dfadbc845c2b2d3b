"""Grow a model folder into a larger one; docs/reference/growth.md describes each method.

    python -m model.growth upcycle SOURCE TARGET [--method halves|copies|slices]   dense to experts
    python -m model.growth experts SOURCE TARGET [--method split|duplicate]        more experts
    python -m model.growth depth SOURCE TARGET --after 3,7 | --stack 0-7,4-11      more layers

The result goes to stdout, notes and errors to stderr. Exit status: 0 done, 1 failed, 2 wrong command line or a growth
that this model does not support.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError

from model.checkpoint import CONFIG_FILE, CheckpointError, is_complete, models_home
from model.command_errors import CommandParser, failed
from model.config import ConfigError, Gate, GroupScore, ModelConfig
from model.growth.difference import Difference, logit_difference
from model.growth.folder import Grown, grow_folder
from model.growth.methods import DEPTH, EXPERTS, UPCYCLING, Method
from model.training.run.faults import is_out_of_memory

ROUNDING = 1e-3  # of the largest logit; fp32 stays far below, another choice of experts far above
DIGITS = 4  # of a layer's number: a typing error must not make a list of a billion
OURS = (
    "command",
    "source",
    "target",
    "json",
    "measure",
    "moments",
    "method",
    "methods",
)  # all other options are the method's


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        document = _grow(options)
    except ConfigError as error:
        return failed(str(error), "usage", 2, as_json=options.json)
    except CheckpointError as error:
        return failed(str(error), "checkpoint", 1, as_json=options.json)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return failed(message, "os_error", 1, as_json=options.json)
    except SafetensorError as error:  # the library's error when the disk is full
        return failed(f"{options.target} cannot be written: {error}", "os_error", 1, as_json=options.json)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = (
            "not enough memory: choose a smaller growth, or a machine with more; --no-measure needs less"
        )
        return failed(message, "out_of_memory", 1, as_json=options.json)
    sys.stdout.write(json.dumps(document) + "\n" if options.json else _text(document))
    return 0


def _grow(options: argparse.Namespace) -> dict[str, Any]:
    method: Method = options.methods[_method(options)]
    arguments = {name: value for name, value in vars(options).items() if name not in OURS}
    source, target = _source(options.source), Path(options.target)
    grown = grow_folder(
        source,
        target,
        lambda config: method.on(config, arguments),
        method=f"{options.command} {method.name}",
        arguments=arguments,
        with_moments=options.moments,
    )
    difference = logit_difference(source, target) if options.measure else None
    for note in _notes(method, arguments, grown, difference):
        sys.stderr.write(f"note: {note}\n")
    return _document(f"{options.command} {method.name}", target, grown, difference)


def _notes(
    method: Method, arguments: Mapping[str, Any], grown: Grown, difference: Difference | None
) -> Iterator[str]:
    if method is EXPERTS["duplicate"] and not arguments.get("noise"):
        yield "without --noise the copies of an expert stay equal in training, since their router rows are equal too"
    if difference is None:
        return
    if not math.isfinite(difference.largest):
        yield (
            "some logits of the parent or of the grown model are not finite, so they could not be compared: check "
            "the parent's weights, and reduce --noise if it is used"
        )
    if grown.preserves and difference.relative > ROUNDING:
        yield (
            f"{method.name} keeps the function where no two experts have equal scores; on random tokens this model's "
            f"logits moved by {difference.largest:.2g}, so some of its experts tie"
        )


def _method(options: argparse.Namespace) -> str:
    if options.command != "depth":
        return str(options.method)
    return "identity" if hasattr(options, "after") else "stack"


def _source(name: str) -> Path:
    """Find a model in the store, else a folder. Raises CheckpointError for one in another format."""
    stored, folder = models_home() / name, Path(name)
    if is_complete(stored):
        return stored
    if _is_hugging_face(folder / CONFIG_FILE):
        raise CheckpointError(
            f"{folder} is in Hugging Face's format: import it first with `gainshare model import {folder}`"
        )
    return folder


def _is_hugging_face(file: Path) -> bool:
    try:
        return "model_type" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False  # loading reports the error


def _document(method: str, target: Path, grown: Grown, difference: Difference | None) -> dict[str, Any]:
    measured = None
    if difference is not None:
        measured = {
            "largest": _finite(difference.largest),
            "largest_logit": _finite(difference.largest_logit),
            "tokens": difference.n_tokens,
        }
    return {
        "model": target.name,
        "folder": str(target),
        "method": method,
        "parent": _sizes(grown.parent),
        "child": _sizes(grown.child),
        "preserves": grown.preserves,
        "moments": grown.n_moments,
        "logit_difference": measured,
    }


def _finite(number: float) -> float | None:
    """None for a number that is not finite, which JSON does not have."""
    return number if math.isfinite(number) else None


def _sizes(config: ModelConfig) -> dict[str, int | None]:
    moe = config.moe
    return {
        "parameters": config.total_parameters,
        "active_parameters": config.active_parameters,
        "layers": config.n_layers,
        "experts": None if moe is None else moe.n_experts,
        "top_k": None if moe is None else moe.top_k,
    }


def _text(document: Mapping[str, Any]) -> str:
    parent, child, measured = document["parent"], document["child"], document["logit_difference"]
    lines = [f"{document['model']} is ready: {document['folder']} ({document['method']})"]
    for name in ("parameters", "active_parameters", "layers", "experts", "top_k"):
        before, after = ("none" if value is None else f"{value:,}" for value in (parent[name], child[name]))
        if before != after:
            lines.append(f"  {name.replace('_', ' '):<20}{before} -> {after}")
    lines.append(f"  {'function':<20}{'kept, up to rounding' if document['preserves'] else 'changed'}")
    if document["moments"] is not None:
        lines.append(f"  {'moments':<20}of {document['moments']:,} parameters kept")
    if measured is not None and measured["largest"] is not None:
        lines.append(
            f"  {'logits':<20}differ by {measured['largest']:.2g} at most, on {measured['tokens']} random tokens; the "
            f"largest is {measured['largest_logit']:.3g}"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m model.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    upcycle = _command(
        commands, "upcycle", "turn a dense model into a Mixture of Experts with the same outputs", UPCYCLING
    )
    upcycle.add_argument(
        "--method", choices=UPCYCLING, default="halves", help="content of an expert (default: halves)"
    )
    upcycle.add_argument(
        "--n-experts",
        type=_count,
        help="number of experts, for halves and copies (default: 7 halves, 8 copies)",
    )
    upcycle.add_argument(
        "--n-copies", type=_count, help="copies of the feed-forward, for slices (default: 4)"
    )
    upcycle.add_argument("--n-slices", type=_count, help="experts per copy, for slices (default: 4)")
    upcycle.add_argument(
        "--top-k",
        type=_count,
        help="experts per token; copies per token for slices (default: 2; for slices 1)",
    )
    _add_noise(upcycle)
    _add_routing(upcycle)
    experts = _command(commands, "experts", "grow the number of experts", EXPERTS)
    experts.add_argument(
        "--method",
        choices=EXPERTS,
        default="split",
        help="split each expert into parts, or duplicate it (default: split)",
    )
    experts.add_argument(
        "--factor",
        type=_count,
        default=2,
        help="factor on the number of experts and of active experts (default: 2)",
    )
    _add_noise(experts)
    depth = _command(commands, "depth", "grow the number of layers", DEPTH)
    how = depth.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--after",
        type=_layers,
        metavar="LAYERS",
        help="insert an identity block after each of these layers, counted from 0: 3,7 or 0-5",
    )
    how.add_argument(
        "--stack",
        type=_layers,
        dest="sources",
        metavar="LAYERS",
        help="layers of the new model, as numbers of the old one's layers: 0-7,4-11; changes the outputs",
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[CommandParser],
    name: str,
    what: str,
    methods: Mapping[str, Method],
) -> argparse.ArgumentParser:
    """Add a command. Options that are not given are absent, so that each method has its own defaults."""
    command = commands.add_parser(name, help=what, description=what, argument_default=argparse.SUPPRESS)
    command.set_defaults(methods=methods)
    command.add_argument("source", help="a model folder, or the name of a model in the local store")
    command.add_argument("target", help="the folder to write; it must not exist yet")
    command.add_argument(
        "--json", action="store_true", default=False, help="print one JSON document instead of text"
    )
    command.add_argument(
        "--no-measure",
        dest="measure",
        action="store_false",
        default=True,
        help="do not compare logits (comparing computes both models in fp32)",
    )
    command.add_argument(
        "--moments",
        action="store_true",
        default=False,
        help="grow AdamW's moments with their weights; SOURCE must be a run's checkpoint, OUTPUT/checkpoints/step-N",
    )
    return command


def _add_noise(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--noise",
        type=_weight,
        help="noise on experts' weights, as a share of their root mean square, so that copies differ; changes the "
        "outputs (default: 0)",
    )
    command.add_argument("--seed", type=_seed, help="seed of routers and noise (default: 0)")


def _add_routing(command: argparse.ArgumentParser) -> None:
    routing = command.add_argument_group("routing", "fields of MoEConfig that do not change the outputs")
    routing.add_argument("--gate", choices=get_args(Gate), help="default: softmax")
    routing.add_argument(
        "--bias-balancing", action="store_true", help="balance the load by a bias on the scores"
    )
    routing.add_argument("--n-groups", type=_count, help="groups of experts (default: 1)")
    routing.add_argument(
        "--top-groups", type=_count, help="groups that a token's experts come from (default: 1)"
    )
    routing.add_argument("--group-score", choices=get_args(GroupScore), help="default: max")
    for name, what in (
        ("--switch-loss", "of the load-balance loss over a batch"),
        ("--sequence-loss", "of the same per sequence"),
        ("--z-loss", "of the router's logits"),
    ):
        routing.add_argument(name, type=_weight, help=f"weight {what} (default: 0)")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 2^31 - 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 2")
    return int(text)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return weight


def _layers(text: str) -> list[int]:
    """`0-2,5` -> [0, 1, 2, 5]."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal() or len(last) > DIGITS:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a list of layers: write them as 3,7 or 0-5, counted from 0"
            )
        layers += range(int(first), int(last) + 1)
    return layers


if __name__ == "__main__":
    sys.exit(main())
