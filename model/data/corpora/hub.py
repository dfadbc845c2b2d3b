"""Documents from a Hugging Face dataset, through the optional `datasets` package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from glob import glob
from pathlib import Path
from typing import Any

from model.data.corpora.text_documents import TextDocument
from model.data.corpora.utf8_file import NotUTF8Error, check_utf8
from model.data.errors import CorpusError

TEXT_FORMATS = ("json", "csv", "text")  # datasets that are local files of text
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


@dataclass(frozen=True)
class HubDataset:
    """Texts of a hub dataset: `column` of `name` (a hub id, or "json", "csv", "parquet" or "text" with `data_files`).

    With `answer_column` they are questions. `called` distinguishes datasets of one `name`. `licence` is the user's
    statement, since hubs do not always have it.
    """

    name: str
    column: str
    licence: str
    split: str = "train"
    config: str | None = None
    data_files: str | None = None
    answer_column: str | None = None
    limit: int | None = None  # documents
    called: str | None = None  # in provenance; `name` where it is left out

    @classmethod
    def parse(cls, text: str) -> HubDataset:
        """Parse "name,column=text,licence=CC-BY-4.0,limit=1000". Raises CorpusError naming what is wrong."""
        name, *options = text.split(",")
        values: dict[str, Any] = {"name": name}
        known = {field.name for field in fields(cls)} - {"name"}
        for option in options:
            key, _, value = option.partition("=")
            if key not in known:
                raise CorpusError(f"a hub dataset has no option {key!r}: use {', '.join(sorted(known))}")
            values[key] = value
        if missing := {"column", "licence"} - set(values):
            raise CorpusError(
                f"the hub dataset {name!r} needs {' and '.join(sorted(missing))}, as in column=text"
            )
        if "limit" in values:
            if not values["limit"].isdecimal():
                raise CorpusError(
                    f"limit={values['limit']} is not a number of documents: write a whole number"
                )
            values["limit"] = int(values["limit"])
        return cls(**values)

    @property
    def corpus(self) -> str:
        """Name of the corpus in the documents' provenance."""
        return f"hub:{self.called or self.name}"

    def read(self) -> Iterator[TextDocument]:
        """Stream the dataset. Raises CorpusError without the `datasets` package, the dataset or its column."""
        try:
            import datasets
        except ImportError:
            raise CorpusError(
                "hub datasets need the package `datasets`: pip install 'gainshare[datasets]'"
            ) from None
        try:
            rows = datasets.load_dataset(
                self.name, self.config, data_files=self.data_files, split=self.split, streaming=True
            )
            for number, row in enumerate(rows):
                if self.limit is not None and number >= self.limit:
                    return
                yield self._document(number, row)
        except CorpusError:
            raise
        except Exception as error:  # `datasets` raises many kinds of errors: network, hub, file formats
            self._check_files()
            raise CorpusError(
                f"cannot read the dataset {self.name!r}: {error}. Check the name and the network, or name local "
                "files with data_files="
            ) from error

    def _check_files(self) -> None:
        """Raises CorpusError for a local file of `data_files` that is not UTF-8; `datasets` would not name it."""
        if self.name not in TEXT_FORMATS:
            return
        for file in sorted(map(Path, glob(self.data_files or "", recursive=True))):  # noqa: PTH207 (Path.glob refuses absolute patterns)
            if not file.is_file() or file.suffix in COMPRESSED:
                continue
            try:
                check_utf8(file)
            except NotUTF8Error as error:
                raise CorpusError(
                    f"{error}: convert the file to UTF-8 (for example with `iconv -f latin1 -t utf-8`), or leave it out"
                ) from error

    def _document(self, number: int, row: dict[str, Any]) -> TextDocument:
        texts = []
        for column in filter(None, (self.column, self.answer_column)):
            if not isinstance(row.get(column), str):
                raise CorpusError(
                    f"row {number} of {self.name!r} has no text in column {column!r}; it has {', '.join(sorted(row))}"
                )
            texts.append(row[column])
        path = f"{self.called or self.name}:{self.config or ''}:{self.split}:{number}"
        answer = texts[1] if self.answer_column else None
        return TextDocument(self.corpus, self.licence, path, path, texts[0], answer)
