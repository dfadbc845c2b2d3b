"""Byte-level BPE: training, files, and the ids of documents and instructions.

Every byte has its own token, so no text is unknown (Radford et al. 2019, Language Models are Unsupervised
Multitask Learners). Text is first split as in OpenAI's cl100k_base: words with the space before them, runs of
punctuation, at most three digits, runs of spaces (Python's indentation).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from model.data.arrow.token_documents import Span
from model.data.corpora.utf8_file import NotUTF8Error, read_utf8
from model.data.errors import TokenizerError

TOKENIZER_FILE = "tokenizer.json"
MARKUP_FILE = "markup.json"
MINIMUM_COUNT = 2  # of a merge in the texts
MOST_VOCABULARY = (
    1 << 20
)  # beyond any model; the trainer reserves memory for all of it and aborts where there is none
LONGEST_TAUGHT = (
    1024  # characters of one piece that merges are learnt from: the trainer's time grows with their square
)

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Markup:
    """Special tokens around texts: after a document, and before and after a question."""

    document_end: str = "<|end|>"
    user: str = "<|user|>"
    assistant: str = "<|assistant|>"

    @property
    def strings(self) -> tuple[str, str, str]:
        return self.document_end, self.user, self.assistant


CHATML = Markup(
    "<|im_end|>", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
)  # SmolLM2-Instruct's


class TextTokenizer:
    """Tokenizer of training data. Special tokens that are spelt out in a text are text: only `markup` makes them.

    Raises TokenizerError where `markup` does not begin with a special token of the tokenizer.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, markup: Markup | None = None) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self.markup = markup or Markup()
        special = {
            token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special
        }
        for text in self.markup.strings:
            if not any(text.startswith(token) for token in special):
                raise TokenizerError(
                    f"the markup {text!r} does not begin with a special token of this tokenizer, which has "
                    f"{', '.join(sorted(special)) or 'none'}: give its own markup"
                )
        self._end, self._user, self._assistant = (self._raw(text) for text in self.markup.strings)
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, markup: Markup | None = None) -> TextTokenizer:
        """Train a tokenizer of at most `vocab_size` tokens: the markup's, 256 bytes, and merges that occur twice or more.

        A piece of more than `LONGEST_TAUGHT` characters (a word, a run of spaces) is cut into parts of that length for
        training; encoding always uses whole pieces. Raises TokenizerError for a size without a merge or beyond
        `MOST_VOCABULARY`, or where no text has a merge.
        """
        markup = markup or Markup()
        check_vocab_size(vocab_size, markup)
        tokenizer = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
        part = pre_tokenizers.Split(Regex(f"(?m).{{{LONGEST_TAUGHT}}}"), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, part, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=MINIMUM_COUNT,
            special_tokens=list(dict.fromkeys(markup.strings)),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((_utf8(text) for text in texts), trainer)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        if tokenizer.get_vocab_size() <= without_merges(markup):
            raise TokenizerError("no pair of bytes occurs twice in the texts: give more text")
        return cls(tokenizer, markup)

    @classmethod
    def load(cls, folder: Path, markup: Markup | None = None) -> TextTokenizer:
        """Load a folder's `tokenizer.json` and, unless given, `markup.json`. Raises TokenizerError."""
        file = folder / TOKENIZER_FILE
        try:
            if markup is None:
                markup = Markup(**json.loads(read_utf8(folder / MARKUP_FILE)))
            return cls(tokenizers.Tokenizer.from_str(read_utf8(file)), markup)
        except FileNotFoundError as error:
            raise TokenizerError(
                f"{error.filename} is missing: build the data again or name its folder"
            ) from None
        except NotUTF8Error as error:
            raise TokenizerError(f"{error}: build the data again or fetch the model again") from error
        except TokenizerError:
            raise
        except Exception as error:  # tokenizers raises bare Exceptions
            raise TokenizerError(
                f"{folder} has no usable tokenizer: {error}; build the data again"
            ) from error

    def save(self, folder: Path) -> None:
        """Writes what `load` reads. Raises OSError."""
        (folder / TOKENIZER_FILE).write_text(self._document(), encoding="utf-8")
        (folder / MARKUP_FILE).write_text(json.dumps(asdict(self.markup), indent=2) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def sha256(self) -> str:
        """SHA-256 that is equal for tokenizers that give every document the same ids."""
        return hashlib.sha256((self._document() + json.dumps(asdict(self.markup))).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the document's end."""
        return self._raw(text)

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, with the document's end after it."""
        encodings = self._tokenizer.encode_batch_fast(
            [_utf8(text) for text in texts], add_special_tokens=False
        )
        return [[*encoding.ids, *self._end] for encoding in encodings]

    def encode_instruction(self, question: str, answer: str) -> tuple[list[int], Span]:
        """Ids of a question and its answer in markup, and the range that is scored: the answer with its end."""
        before = [*self._user, *self._raw(question), *self._assistant]
        ids = [*before, *self._raw(answer), *self._end]
        return ids, (len(before), len(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelt out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _raw(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(_utf8(text), add_special_tokens=False).ids
        return ids

    def _document(self) -> str:
        document: str = self._tokenizer.to_str(pretty=True)
        return document


def check_vocab_size(vocab_size: int, markup: Markup) -> None:
    """Raises TokenizerError for a vocabulary size that cannot be trained."""
    least = without_merges(markup)
    if not least < vocab_size <= MOST_VOCABULARY:
        raise TokenizerError(
            f"vocab_size must be above {least}, the number of bytes and special tokens, and at most "
            f"{MOST_VOCABULARY:,}, not {vocab_size:,}"
        )


def without_merges(markup: Markup) -> int:
    """Number of tokens before the first merge: the bytes and the markup's."""
    return 256 + len(set(markup.strings))


def _utf8(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates have no UTF-8 form
