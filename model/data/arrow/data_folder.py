"""A built data folder: its tokenizer, its record of how it was built, and its documents by kind and side.

tokenizer.json markup.json build.json general/{train,held_out}/ domain/… instruction/…
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.data.arrow.manifest import AGAIN, MANIFEST_FILE, damaged
from model.data.arrow.shards import ShardedDocuments
from model.data.corpora.registry import KINDS
from model.data.errors import ShardError
from model.data.tokenizer import MARKUP_FILE, TOKENIZER_FILE, TextTokenizer
from model.new_folder import has_format

Side = Literal["train", "held_out"]
SIDES: tuple[Side, ...] = ("train", "held_out")
KIND = "gainshare.data-folder"
FORMAT = f"{KIND}/1"
BUILD_FILE = "build.json"


@dataclass(frozen=True)
class DataFolder:
    """A data folder, opened by `open_data_folder`. `build` is the content of `build.json`."""

    path: Path
    tokenizer: TextTokenizer
    build: dict[str, Any]

    def kinds(self, side: Side = "train") -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if (self.path / kind / side / MANIFEST_FILE).is_file())

    def documents(self, kind: str, side: Side = "train") -> ShardedDocuments:
        """The documents of a kind and side. Raises ShardError where they are missing, damaged or of another tokenizer."""
        documents = ShardedDocuments(self.path / kind / side)
        if documents.manifest.tokenizer_sha256 != self.tokenizer.sha256:
            raise ShardError(
                f"{documents.folder} was made with another tokenizer than {self.path}'s: {AGAIN}"
            )
        return documents

    def sources(self, side: Side = "train") -> dict[str, ShardedDocuments]:
        """Documents by kind, as `DataStream` takes them. Raises ShardError."""
        return {kind: self.documents(kind, side) for kind in self.kinds(side)}


def is_data_folder(path: Path) -> bool:
    """Whether `path` is a data folder of any version without other content, so that a new one may replace it."""
    names = {BUILD_FILE, TOKENIZER_FILE, MARKUP_FILE, *KINDS}
    return has_format(path / BUILD_FILE, KIND) and names.issuperset(entry.name for entry in path.iterdir())


def open_data_folder(path: Path) -> DataFolder:
    """Open a data folder. Raises ShardError where it is unfinished, TokenizerError for a damaged tokenizer."""
    file = path / BUILD_FILE
    try:
        build = json.loads(file.read_text(encoding="utf-8"))
        if build["format"] != FORMAT:
            raise ShardError(f"{file} is of another version than {FORMAT!r}: {AGAIN}")
        if not all(type(count) is int for count in build["left_out"].values()):
            raise TypeError("left_out holds whole numbers")
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(f"{path} is no data folder: {BUILD_FILE} is missing; {AGAIN}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, str(error)) from error
    return DataFolder(path, TextTokenizer.load(path), build)
