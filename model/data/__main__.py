"""Build training data from this machine's corpora, and show it.

    python -m model.data build DATA                 from all corpora that are here
    python -m model.data corpora                    what they are, and how to get the absent ones
    python -m model.data stats DATA [--json]        sizes, lengths, padding
    python -m model.data show DATA KIND [--document N]

Progress is on stderr, results on stdout; with --json errors too, as {"error": {"code", "message"}}. Exit status: 0 done,
1 failed, 2 wrong command line, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from model.command_errors import CommandParser, failed
from model.config import ConfigError
from model.data import tokenizer as tokenizers
from model.data.arrow.data_folder import SIDES, DataFolder, open_data_folder
from model.data.build import Settings, build
from model.data.corpora.hub import HubDataset
from model.data.corpora.registry import KINDS, ROOT, Corpus, built_in_corpora, select
from model.data.errors import CorpusError, DataError
from model.data.show import show_batch, show_document
from model.data.statistics import Row, statistics
from model.data.tokenizer import MOST_VOCABULARY, TextTokenizer
from model.new_folder import FolderTakenError
from model.progress_lines import ProgressLines
from model.serving.node.options import whole

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        text: str = options.run(options)
    except DataError as error:
        return failed(str(error), "data", as_json=options.json)
    except (ConfigError, FolderTakenError, ValueError) as error:
        return failed(str(error), "usage", as_json=options.json)
    except OSError as error:
        message = f"{error.filename or options.folder}: {error.strerror or error}"
        return failed(message, "os_error", as_json=options.json)
    except KeyboardInterrupt:
        message = "interrupted: the unfinished folder was removed; run the same command to start again"
        return failed(message, "interrupted", INTERRUPTED, as_json=options.json)
    sys.stdout.write(text + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m model.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_build(commands)
    command = commands.add_parser("corpora", help="list the corpora and whether they are on this machine")
    command.set_defaults(run=_list, folder=None, json=False)
    command.add_argument(
        "--root", type=Path, default=ROOT, help="root folder of Debian's packages (default: /)"
    )
    command = commands.add_parser("stats", help="sizes, lengths and padding of a data folder")
    command.set_defaults(run=_stats)
    command.add_argument("folder", type=Path)
    command.add_argument("--sequence-length", type=int, default=512, help="tokens (default: 512)")
    command.add_argument(
        "--batch-tokens", type=int, default=16_384, help="positions a batch (default: 16384)"
    )
    command.add_argument(
        "--verify", action="store_true", help="read every byte and compare it with the manifests"
    )
    command.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    command = commands.add_parser("show", help="print a document, or one packed sequence")
    command.set_defaults(run=_show, json=False)
    command.add_argument("folder", type=Path)
    command.add_argument("kind", choices=KINDS)
    command.add_argument("--side", choices=SIDES, default="train")
    command.add_argument("--document", type=int, help="its number; without it a packed sequence is shown")
    command.add_argument("--sequence-length", type=int, default=512, help="tokens (default: 512)")
    command.add_argument("--seed", type=int, default=0, help="another one shows another sequence")
    return parser


def _add_build(commands: argparse._SubParsersAction[CommandParser]) -> None:
    default = Settings()
    command = commands.add_parser("build", help="build a data folder from corpora")
    command.set_defaults(run=_build)
    command.add_argument("folder", type=Path, help="where to put it")
    command.add_argument(
        "--corpus", action="append", default=[], help="its name; repeat; default: all that are here"
    )
    command.add_argument(
        "--hub",
        action="append",
        default=[],
        metavar="KIND:NAME,column=C,licence=L[,split=…][,limit=N][,called=…]",
        help="a Hugging Face dataset in addition; needs the extra `datasets`",
    )
    command.add_argument(
        "--tokenizer", type=Path, help="folder with a tokenizer.json to use instead of training one"
    )
    command.add_argument("--markup", choices=("own", "chatml"), help="special tokens of --tokenizer's model")
    command.add_argument(
        "--vocab-size",
        type=whole(tokenizers.without_merges(tokenizers.Markup()) + 1, MOST_VOCABULARY),
        help=f"of a tokenizer that is trained (default: {default.vocab_size})",
    )
    command.add_argument(
        "--held-out",
        type=float,
        default=default.held_out_share,
        help=f"share (default: {default.held_out_share})",
    )
    command.add_argument(
        "--longest-instruction",
        type=whole(1),
        default=default.longest_instruction,
        help=f"tokens; longer ones are left out (default: {default.longest_instruction})",
    )
    command.add_argument(
        "--root", type=Path, default=ROOT, help="root folder of Debian's packages (default: /)"
    )
    command.add_argument("--replace", action="store_true", help="replace the folder if it exists")
    command.add_argument("--json", action="store_true", help="print build.json instead of a sentence")


def _build(options: argparse.Namespace) -> str:
    started = time.monotonic()
    _require_tokenizer_options(options)
    corpora = list(select(tuple(options.corpus), built_in_corpora(options.root)))
    if options.hub and not options.corpus:
        corpora = []
    corpora += [_hub_corpus(text) for text in options.hub]
    tokenizer = None
    if options.tokenizer is not None:
        markups = {None: None, "own": tokenizers.Markup(), "chatml": tokenizers.CHATML}
        tokenizer = TextTokenizer.load(options.tokenizer, markups[options.markup])
    settings = Settings(
        vocab_size=Settings.vocab_size if options.vocab_size is None else options.vocab_size,
        held_out_share=options.held_out,
        longest_instruction=options.longest_instruction,
    )
    data = build(
        options.folder,
        corpora,
        settings=settings,
        tokenizer=tokenizer,
        are_required=bool(options.corpus or options.hub),
        replace=options.replace,
        report=ProgressLines(documents_line),
    )
    for name, remedy in data.build["absent"].items():
        sys.stderr.write(f"note: without the corpus {name}: {remedy}\n")
    if options.json:
        return json.dumps(data.build)
    return _built(data, time.monotonic() - started)


def _require_tokenizer_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for an option that would not be read."""
    if options.tokenizer is None and options.markup is not None:
        raise ConfigError(
            "--markup is of --tokenizer's model: name its folder as well, or leave --markup out"
        )
    if options.tokenizer is not None and options.vocab_size is not None:
        raise ConfigError("--vocab-size is of a tokenizer that is trained: leave it or --tokenizer out")


def _hub_corpus(text: str) -> Corpus:
    kind, _, dataset = text.partition(":")
    for known in KINDS:
        if kind == known:
            hub = HubDataset.parse(dataset)
            return Corpus(
                hub.corpus, known, hub.licence, "a Hugging Face dataset", "check its name", hub.read
            )
    raise CorpusError(f"--hub {text}: begin with one of {', '.join(KINDS)} and a colon")


def _built(data: DataFolder, seconds: float) -> str:
    lines = [
        f"{data.path} is ready after {seconds:.0f} s, with {data.tokenizer.vocab_size:,} tokens of vocabulary"
    ]
    for side in SIDES:
        for kind, documents in data.sources(side).items():
            manifest = documents.manifest
            lines.append(
                f"  {kind:<12}{side:<9}{len(documents):>7,} documents{manifest.n_tokens:>12,} tokens, "
                f"{manifest.n_bytes / manifest.n_tokens:.2f} bytes a token"
            )
    return "\n".join(lines)


def _list(options: argparse.Namespace) -> str:
    lines = []
    for corpus in built_in_corpora(options.root):
        is_here = next(iter(corpus.read()), None) is not None
        where = "here" if is_here else f"absent ({corpus.remedy})"
        lines.append(f"{corpus.name:<20}{corpus.kind:<12}{corpus.licence:<14}{corpus.about}: {where}")
    return "\n".join(lines)


def _stats(options: argparse.Namespace) -> str:
    data = open_data_folder(options.folder)
    if options.verify:
        for side in SIDES:
            for documents in data.sources(side).values():
                documents.verify()
    rows = statistics(data, options.sequence_length, options.batch_tokens)
    if options.json:
        document = {"command": "python -m model.data stats", "folder": str(data.path)}
        return json.dumps({**document, "rows": [asdict(row) for row in rows]})
    return "\n".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    value = f"{row.value:,}" if isinstance(row.value, int) else f"{row.value:,.2f}"
    return f"{row.name:<40}{value:>14} {row.unit:<10}{row.how}"


def _show(options: argparse.Namespace) -> str:
    data = open_data_folder(options.folder)
    if options.document is not None:
        return show_document(data, options.kind, options.side, options.document)
    return show_batch(data, options.kind, options.side, options.sequence_length, options.seed)


def documents_line(stage: str, done: int, total: int | None) -> str:
    share = f" of {total:,}, {100 * done // total} %" if total else ""
    return stage + (f": {done:,} documents{share}" if done else "")


if __name__ == "__main__":
    sys.exit(main())
