"""Build a data folder from corpora: read, split, train the tokenizer, tokenise, write.

All texts are held in memory: limit a hub dataset that does not fit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from model.data.arrow.data_folder import BUILD_FILE, FORMAT, DataFolder, is_data_folder, open_data_folder
from model.data.arrow.manifest import Record
from model.data.arrow.writer import SHARD_TOKENS, TokenisedDocument, write_shards
from model.data.batches.order import keyed_order
from model.data.corpora.registry import KINDS, Corpus, Kind
from model.data.corpora.text_documents import TextDocument
from model.data.errors import CorpusError
from model.data.splitting import Split, split
from model.data.tokenizer import Markup, TextTokenizer, check_vocab_size
from model.new_folder import FolderTakenError, new_folder

ENCODED_AT_ONCE = 256  # documents

Report = Callable[[str, int, int | None], None]  # stage, documents done, of how many where known


@dataclass(frozen=True)
class Settings:
    """Settings of a build: `held_out_share` of origins (modules, pages), `tokenizer_bytes` of text for a new tokenizer.

    `longest_instruction` in tokens: longer questions and answers together are left out rather than cut.
    """

    vocab_size: int = 4096
    held_out_share: float = 0.05
    tokenizer_bytes: int = 20_000_000
    longest_instruction: int = 1024
    shard_tokens: int = SHARD_TOKENS


@dataclass(frozen=True)
class _Read:
    """Documents with the kind of each one's corpus, and the absent corpora."""

    documents: tuple[TextDocument, ...]
    kinds: dict[str, Kind]
    absent: tuple[Corpus, ...]


def build(
    folder: Path,
    corpora: Sequence[Corpus],
    *,
    settings: Settings | None = None,
    tokenizer: TextTokenizer | None = None,
    are_required: bool = False,
    replace: bool = False,
    report: Report = lambda stage, done, total: None,
) -> DataFolder:
    """Build `folder`, whole or not at all, with a new tokenizer unless one is given.

    Equal corpora and settings give equal files. Corpora must have different names. An absent corpus is
    noted in `build.json`, or an error if all `are_required`. `replace` replaces an older data folder.
    Raises CorpusError, TokenizerError, FolderTakenError where the folder holds anything else, and OSError where the disk
    refuses.
    """
    settings = settings or Settings()
    if folder.exists() and not replace:
        raise FolderTakenError(f"{folder} exists already: choose another folder, or use --replace")
    if tokenizer is None:
        check_vocab_size(settings.vocab_size, Markup())
    with new_folder(folder, is_ours=is_data_folder, name="data folder") as partial:
        read = _read(corpora, are_required, report)
        sides = split(
            read.documents, settings.held_out_share, lambda done, total: report("compare", done, total)
        )
        if tokenizer is None:
            report("tokenizer", 0, None)
            texts = _sample(sides.train, settings.tokenizer_bytes)
            tokenizer = TextTokenizer.train(texts, settings.vocab_size)
        tokenizer.save(partial)
        too_long = _write(partial, sides, read.kinds, tokenizer, settings, report)
        if too_long == len(sides.train) + len(sides.held_out):
            raise CorpusError(
                f"no document is left: all are instructions of more than {settings.longest_instruction:,} tokens; "
                "raise --longest-instruction"
            )
        record = _record(corpora, read, sides, tokenizer, settings, too_long)
        (partial / BUILD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return open_data_folder(folder)


def _read(corpora: Sequence[Corpus], are_required: bool, report: Report) -> _Read:
    name, n_corpora = Counter(corpus.name for corpus in corpora).most_common(1)[0] if corpora else ("", 0)
    if n_corpora > 1:
        raise CorpusError(
            f"the corpus {name} is named {n_corpora} times: name it once, and give hub datasets of the same name "
            "different called=…"
        )
    documents: list[TextDocument] = []
    kinds: dict[str, Kind] = {}
    absent: list[Corpus] = []
    for corpus in corpora:
        before = len(documents)
        for document in corpus.read():
            documents.append(document)
            kinds[document.corpus] = corpus.kind
            report(f"read {corpus.name}", len(documents) - before, None)
        if len(documents) == before:
            absent.append(corpus)
    if absent and (are_required or not documents):
        wanted = "; ".join(f"{corpus.name}: {corpus.remedy}" for corpus in absent)
        raise CorpusError(f"these corpora are not on this machine: {wanted}")
    if not documents:
        raise CorpusError("no corpus was chosen: name at least one")
    return _Read(tuple(documents), kinds, tuple(absent))


def _sample(documents: Sequence[TextDocument], n_bytes: int) -> Iterator[str]:
    """Texts with `n_bytes` in all, in an order that does not depend on corpora; a text that is longer is cut."""
    most = n_bytes
    for index in keyed_order(len(documents), ("tokenizer",)).tolist():
        if n_bytes <= 0:
            return
        document = documents[index]
        n_bytes -= document.n_bytes
        yield document.whole if document.n_bytes <= most else document.first_bytes(most)


def _write(
    folder: Path,
    sides: Split,
    kinds: dict[str, Kind],
    tokenizer: TextTokenizer,
    settings: Settings,
    report: Report,
) -> int:
    """Write every kind and side that has documents; returns the number of instructions that were too long."""
    n_documents = len(sides.train) + len(sides.held_out)
    done, too_long = 0, 0
    for kind in KINDS:
        for side, documents in (("train", sides.train), ("held_out", sides.held_out)):
            own = [document for document in documents if kinds[document.corpus] == kind]
            kept = (
                document
                for document in _tokenise(own, tokenizer)
                if not document.answers or len(document.ids) <= settings.longest_instruction
            )
            first = next(kept, None)  # no folder is made for a side without documents
            n_kept = 0
            if first is not None:
                with write_shards(
                    folder / kind / side,
                    name=f"{kind}/{side}",
                    tokenizer_sha256=tokenizer.sha256,
                    vocab_size=tokenizer.vocab_size,
                    shard_tokens=settings.shard_tokens,
                ) as writer:
                    for n_kept, document in enumerate(chain([first], kept), 1):
                        writer.add(document)
                        report("write", done + n_kept, n_documents)
            done += len(own)
            too_long += len(own) - n_kept
    report("write", n_documents, n_documents)
    return too_long


def _tokenise(documents: Sequence[TextDocument], tokenizer: TextTokenizer) -> Iterator[TokenisedDocument]:
    plain = [document for document in documents if document.answer is None]
    for start in range(0, len(plain), ENCODED_AT_ONCE):
        group = plain[start : start + ENCODED_AT_ONCE]
        ids = tokenizer.encode_documents([document.text for document in group])
        for document, encoded in zip(group, ids, strict=True):
            yield TokenisedDocument(_provenance(document), encoded)
    for document in documents:
        if document.answer is not None:
            encoded, answer = tokenizer.encode_instruction(document.text, document.answer)
            yield TokenisedDocument(_provenance(document), encoded, (answer,))


def _provenance(document: TextDocument) -> Record:
    return Record(document.corpus, document.licence, document.path, document.sha256, document.n_bytes)


def _record(
    corpora: Iterable[Corpus],
    read: _Read,
    sides: Split,
    tokenizer: TextTokenizer,
    settings: Settings,
    too_long: int,
) -> dict[str, Any]:
    absent = {corpus.name for corpus in read.absent}
    return {
        "format": FORMAT,
        "settings": vars(settings),
        "tokenizer": {"sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
        "corpora": [
            {
                "name": c.name,
                "kind": c.kind,
                "licence": c.licence,
                "about": c.about,
                "is_here": c.name not in absent,
            }
            for c in corpora
        ],
        "absent": {corpus.name: corpus.remedy for corpus in read.absent},
        "left_out": {
            "duplicates": sides.n_duplicates,
            "held_out_copies": sides.n_copies,
            "long_instructions": too_long,
        },
    }
