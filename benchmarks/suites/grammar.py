"""A secret language: words, word order, agreement, topics and names, all drawn from one seed.

Text in it has what a language model has to learn, near and far: spelling (words are made of few syllables), frequent and
rare words, word order by class, endings that agree over a distance, brackets that close, topics that hold for a document,
and names that are new in each document and come back in it. Nobody can have read it before: every part of the language is
drawn, and so is every document. Imports numpy for its generators, and no models.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

VERSION = 1  # of the rules below: figures of different versions do not compare
CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
SYLLABLES = 72
NOUNS, VERBS, ADJECTIVES, ADVERBS = 260, 160, 110, 40
DETERMINERS, PREPOSITIONS, CONJUNCTIONS = 6, 10, 5
TOPICS = 16
TOPIC_SHARE = 0.7  # of nouns and verbs are those of the document's topic
TOPIC_WORDS = 18
BRACKETS = ("()", "[]", "{}", "<>")
NUMBERS = (0, 1)  # singular, plural

Form = tuple[str, str]  # a word's singular and plural


@dataclass(frozen=True)
class Words:
    """A class of words with how often each comes."""

    forms: tuple[Form, ...]
    cumulative: tuple[float, ...]

    def draw(self, rng: random.Random) -> Form:
        (form,) = rng.choices(self.forms, cum_weights=self.cumulative)
        return form


@dataclass(frozen=True)
class Document:
    """What holds for one document: its topic's words and its names."""

    nouns: Words
    verbs: Words
    names: Words


class Grammar:
    """One language. The same generator state gives the same language."""

    def __init__(self, rng: random.Random) -> None:
        self._syllables = [
            rng.choice(CONSONANTS) + rng.choice(VOWELS) + rng.choice(("", "", rng.choice(CONSONANTS)))
            for _ in range(SYLLABLES)
        ]
        self._syllable_weights = list(accumulate(1 / (rank + 3) for rank in range(SYLLABLES)))
        self._endings = {
            kind: (self._ending(rng), self._ending(rng)) for kind in ("noun", "verb", "adjective")
        }
        self._nouns = self._words(rng, NOUNS, "noun")
        self._verbs = self._words(rng, VERBS, "verb")
        self._adjectives = self._words(rng, ADJECTIVES, "adjective")
        self._adverbs = self._words(rng, ADVERBS)
        self._determiners = self._words(rng, DETERMINERS, most=1)
        self._prepositions = self._words(rng, PREPOSITIONS, most=1)
        self._conjunctions = self._words(rng, CONJUNCTIONS, most=1)
        self._topics = [(self._part(rng, self._nouns), self._part(rng, self._verbs)) for _ in range(TOPICS)]
        self._order = rng.sample(("subject", "verb", "object"), 3)
        self._is_adjective_first = rng.random() < 0.5
        self._is_preposition_first = rng.random() < 0.5
        self._bracket = rng.choice(BRACKETS)

    def documents(self, rng: random.Random) -> Iterator[str]:
        """Documents without end."""
        while True:
            yield self._document(rng)

    # -- the language -------------------------------------------------------------------------------

    def _spelled(self, rng: random.Random, least: int, most: int) -> str:
        count = rng.randint(least, most)
        return "".join(rng.choices(self._syllables, cum_weights=self._syllable_weights, k=count))

    def _ending(self, rng: random.Random) -> str:
        return rng.choice(VOWELS) + rng.choice(("", rng.choice(CONSONANTS)))

    def _words(self, rng: random.Random, count: int, kind: str = "", *, most: int = 3) -> Words:
        singular, plural = self._endings.get(kind, ("", ""))
        stems: dict[str, None] = {}
        while len(stems) < count:
            stems[self._spelled(rng, 1, most)] = None
        forms = tuple((stem + singular, stem + plural) for stem in stems)
        return _by_rank(forms)

    def _part(self, rng: random.Random, words: Words) -> Words:
        return _by_rank(tuple(rng.sample(words.forms, TOPIC_WORDS)))

    # -- its texts ----------------------------------------------------------------------------------

    def _document(self, rng: random.Random) -> str:
        nouns, verbs = rng.choice(self._topics)
        names = [self._spelled(rng, 2, 4).capitalize() for _ in range(rng.randint(2, 5))]
        document = Document(nouns, verbs, _by_rank(tuple((name, name) for name in names)))
        paragraphs = (self._paragraph(rng, document) for _ in range(rng.randint(2, 5)))
        return f"{names[0]}\n\n" + "\n\n".join(paragraphs) + "\n\n\n"

    def _paragraph(self, rng: random.Random, document: Document) -> str:
        if rng.random() < 0.2:
            first = rng.randint(1, 6)
            lines = (f"{first + at}. {self._phrase(rng, document)}" for at in range(rng.randint(2, 5)))
            return "\n".join(lines)
        return " ".join(self._sentence(rng, document) for _ in range(rng.randint(2, 6)))

    def _sentence(self, rng: random.Random, document: Document) -> str:
        clauses = [self._clause(rng, document)]
        while rng.random() < 0.25:
            clauses += [self._conjunctions.draw(rng)[0], self._clause(rng, document)]
        text = " ".join(clauses)
        return text[0].upper() + text[1:] + rng.choice("....?!")

    def _clause(self, rng: random.Random, document: Document) -> str:
        number = rng.choice(NUMBERS)
        parts = {
            "subject": self._noun_phrase(rng, document, number, depth=0),
            "verb": self._verb(rng, document)[number],
            "object": self._noun_phrase(rng, document, rng.choice(NUMBERS), depth=0),
        }
        words = [parts[part] for part in self._order]
        if rng.random() < 0.3:
            words.append(self._adverbs.draw(rng)[0])
        return " ".join(words)

    def _phrase(self, rng: random.Random, document: Document) -> str:
        return self._noun_phrase(rng, document, rng.choice(NUMBERS), depth=1)

    def _noun_phrase(self, rng: random.Random, document: Document, number: int, *, depth: int) -> str:
        if rng.random() < 0.3:
            return document.names.draw(rng)[0]
        noun = (document.nouns if rng.random() < TOPIC_SHARE else self._nouns).draw(rng)[number]
        described = [noun]
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            adjective = self._adjectives.draw(rng)[number]  # endings agree
            described = [adjective, *described] if self._is_adjective_first else [*described, adjective]
        words = [self._determiners.draw(rng)[0], *described]
        if depth < 2 and rng.random() < 0.3:
            words.append(self._addition(rng, document, depth))
        return " ".join(words)

    def _addition(self, rng: random.Random, document: Document, depth: int) -> str:
        inner = self._noun_phrase(rng, document, rng.choice(NUMBERS), depth=depth + 1)
        if rng.random() < 0.3:
            return f"{self._bracket[0]}{inner}{self._bracket[1]}"
        preposition = self._prepositions.draw(rng)[0]
        return f"{preposition} {inner}" if self._is_preposition_first else f"{inner} {preposition}"

    def _verb(self, rng: random.Random, document: Document) -> Form:
        return (document.verbs if rng.random() < TOPIC_SHARE else self._verbs).draw(rng)


def _by_rank(forms: tuple[Form, ...]) -> Words:
    """The first word comes most often, as in every language."""
    return Words(forms, tuple(accumulate(1 / (rank + 2) for rank in range(len(forms)))))
