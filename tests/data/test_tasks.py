import csv
import itertools
import os
import string
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.data import tasks
from course_lib.data.tasks import Task

LETTERS = string.ascii_lowercase
CATEGORIES = {
    "algorithmic": "next_letter prev_letter list_first list_last to_upper to_lower",
    "translation": "fr_en es_en en_fr en_es",
    "linguistic": "present_gerund present_past plural_singular antonyms",
    "knowledge": "country_capital person_language location_continent location_religion",
}
NAMES = " ".join(CATEGORIES.values()).split()
WORDS = [name for name in NAMES if name not in CATEGORIES["algorithmic"].split()]

KNOWN = {
    "next_letter": {"a": "b", "y": "z"},
    "prev_letter": {"b": "a", "z": "y"},
    "to_upper": {"q": "Q"},
    "to_lower": {"Q": "q"},
    "fr_en": {"chien": "dog", "étoile": "star", "été": "summer"},
    "es_en": {"perro": "dog", "corazón": "heart", "mañana": None},
    "en_fr": {"dog": "chien", "tongue": "langue", "window": "fenêtre"},
    "en_es": {"dog": "perro", "year": "año", "tree": "árbol"},
    "present_gerund": {"lie": "lying", "run": "running", "write": "writing"},
    "present_past": {"go": "went", "catch": "caught", "stop": "stopped"},
    "plural_singular": {"geese": "goose", "crises": "crisis", "cities": "city"},
    "antonyms": {"hot": "cold", "visible": "invisible"},
    "country_capital": {"France": "Paris", "Kenya": "Nairobi", "Australia": "Canberra", "Israel": None},
    "person_language": {"Macron": "French", "Cervantes": "Spanish", "Cicero": "Latin"},
    "location_continent": {"Peru": "South America", "Fiji": "Oceania", "Russia": None, "Egypt": None},
    "location_religion": {
        "Thailand": "Buddhism",
        "Iran": "Islam",
        "Italy": "Christianity",
        "Nepal": "Hinduism",
    },
}


def test_names_are_the_eighteen_in_order():
    assert tasks.names() == tuple(NAMES)
    assert {name: tasks.load(name).category for name in NAMES} == {
        name: category for category, group in CATEGORIES.items() for name in group.split()
    }


def test_every_file_is_in_the_index():
    stems = {path.name.removesuffix(".csv") for path in tasks.FOLDER.iterdir()}
    assert stems == {*NAMES, "index"}


def test_index_describes_every_task():
    with (tasks.FOLDER / "index.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "category", "description", "source"]
    assert len(rows) == 18
    assert all(len(row) == 4 and all(cell == cell.strip() != "" for cell in row) for row in rows)


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name):
    answers = dict(tasks.load(name).pairs)
    assert {x: answers.get(x) for x in KNOWN[name]} == KNOWN[name]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_clean(name):
    pairs = tasks.load(name).pairs
    cells = [cell for pair in pairs for cell in pair]
    assert len({x for x, _ in pairs}) == len(pairs)
    assert all(cell and cell == " ".join(cell.split()) for cell in cells)
    assert all(cell.isprintable() and unicodedata.is_normalized("NFC", cell) for cell in cells)
    assert all(x != y for x, y in pairs)
    if name not in ("to_upper", "to_lower"):
        assert all(x.casefold() != y.casefold() for x, y in pairs)


@pytest.mark.parametrize("name", WORDS)
def test_word_tasks_are_large(name):
    assert len(tasks.load(name).pairs) >= 60


@pytest.mark.parametrize(
    "name", [n for n in WORDS if tasks.load(n).category in ("translation", "linguistic")]
)
def test_words_are_single_and_lower_case(name):
    for x, y in tasks.load(name).pairs:
        assert x.isalpha()
        assert y.isalpha()
        assert (x + y).islower()


def test_letter_tasks_are_complete():
    assert tasks.load("next_letter").pairs == tuple(itertools.pairwise(LETTERS))
    assert tasks.load("prev_letter").pairs == tuple((b, a) for a, b in itertools.pairwise(LETTERS))
    assert tasks.load("to_upper").pairs == tuple((c, c.upper()) for c in LETTERS)
    assert tasks.load("to_lower").pairs == tuple((c.upper(), c) for c in LETTERS)


@pytest.mark.parametrize(("name", "position"), [("list_first", 0), ("list_last", -1)])
def test_lists(name, position):
    task = tasks.load(name)
    assert len(task.pairs) >= 80
    for x, y in task.pairs:
        items = x.split(",")
        assert y == items[position]
        assert 3 <= len(items) <= 5
        assert len(set(items)) == len(items)
        assert all(item in LETTERS and len(item) == 1 for item in items)
    counts = Counter(y for _, y in task.pairs)
    assert task.labels == tuple(LETTERS)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("name", "labels"), [("location_continent", 6), ("location_religion", 4)])
def test_locations_are_balanced(name, labels):
    task = tasks.load(name)
    counts = Counter(y for _, y in task.pairs)
    assert len(task.labels) == labels
    assert max(counts.values()) - min(counts.values()) <= 1
    assert task.majority[1] <= 0.30


def test_person_languages_are_spread():
    task = tasks.load("person_language")
    assert len(task.labels) >= 6
    assert task.majority[1] <= 0.25


@pytest.mark.parametrize("name", [name for name in WORDS if not name.startswith(("location", "person"))])
def test_word_tasks_are_almost_one_to_one(name):
    assert tasks.load(name).majority[1] <= 0.02


def test_antonyms_list_a_pair_in_one_direction():
    pairs = set(tasks.load("antonyms").pairs)
    assert not {(x, y) for x, y in pairs if (y, x) in pairs}


def test_translations_agree_in_both_directions():
    # A word listed in both directions must come back: a cheap check against slips such as a swapped pair.
    for there, back in [("fr_en", "en_fr"), ("es_en", "en_es")]:
        forward, backward = dict(tasks.load(there).pairs), dict(tasks.load(back).pairs)
        both = {x: backward[y] for x, y in forward.items() if y in backward}
        assert len(both) > 100
        assert {x: y for x, y in both.items() if x != y} == {}


def test_gerunds_end_in_ing_and_pasts_change():
    assert all(y.endswith("ing") for _, y in tasks.load("present_gerund").pairs)
    past = tasks.load("present_past").pairs
    assert sum(not y.endswith("ed") for _, y in past) > len(past) / 2


def test_labels_and_majority():
    task = Task("t", "custom", (("1", "b"), ("2", "a"), ("3", "b"), ("4", "a"), ("5", "c")))
    assert task.labels == ("a", "b", "c")
    assert task.majority == ("a", 0.4)
    assert Task("t", "custom", (("1", "b"), ("2", "a"), ("3", "b"))).majority == ("b", 2 / 3)


@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(),
    dev=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_split(name, seed, dev):
    task = tasks.load(name)
    left, right = task.split(dev, seed)
    assert (left, right) == task.split(dev, seed)
    assert sorted(left.pairs + right.pairs) == sorted(task.pairs)
    assert not {x for x, _ in left.pairs} & {x for x, _ in right.pairs}
    assert left.pairs
    assert right.pairs
    assert abs(len(left.pairs) - dev * len(task.pairs)) <= 1
    assert (left.name, left.category) == (right.name, right.category) == (task.name, task.category)


def test_split_does_not_depend_on_file_order_but_on_the_seed():
    task = tasks.load("antonyms")
    turned = Task(task.name, task.category, task.pairs[::-1])
    assert task.split(0.3, 7) == turned.split(0.3, 7)
    assert len({task.split(seed=seed) for seed in range(20)}) == 20
    assert task.split()[0].pairs != task.pairs[: len(task.pairs) // 2]


def test_split_is_the_same_on_every_machine():
    # Written down once: a change of the hash or of its input changes the numbers of every chapter.
    dev, _ = tasks.load("next_letter").split()
    assert "".join(x for x, _ in dev.pairs) == "hyrufgsldpmv"


def test_split_does_not_depend_on_the_hash_seed():
    code = "from course_lib.data import tasks; print(*(tasks.load(n).split(0.4, 3) for n in tasks.names()))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert b"Macron" in outputs[0]


@pytest.mark.parametrize("dev", [0, 1, -0.1, 1.5, float("nan"), float("inf"), "half", None])
def test_split_refuses_a_bad_share(dev):
    with pytest.raises(ValueError, match=r"dev=.*strictly between 0 and 1"):
        tasks.load("antonyms").split(dev=dev)


def test_split_refuses_a_single_pair():
    with pytest.raises(ValueError, match=r"'t' has 1 pair.*at least 2"):
        Task("t", "custom", (("a", "b"),)).split()


def test_unknown_name_suggests():
    with pytest.raises(ValueError, match=r"name='antonym': no such task\. Did you mean 'antonyms'") as error:
        tasks.load("antonym")
    assert all(name in str(error.value) for name in NAMES)
    with pytest.raises(ValueError, match=r"name='qqqq': no such task\. Known tasks"):
        tasks.load("qqqq")


def write(folder, text, encoding="utf-8"):
    path = folder / "mine.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        'x,y\nun,one\n"a,b",two\n',
        '\ufeffx,y\r\nun,one\r\n"a,b",two\r\n',
        'x, y\n un ,one \n\n"a,b", two',
        'y,x,note\none,un,\ntwo,"a,b",why\n',
    ],
)
def test_read(tmp_path, text):
    assert tasks.read(write(tmp_path, text)) == Task("mine", "custom", (("un", "one"), ("a,b", "two")))
    assert tasks.read(str(tmp_path / "mine.csv")).name == "mine"


@pytest.mark.parametrize("name", NAMES)
def test_read_and_load_agree(name):
    assert tasks.read(tasks.FOLDER / f"{name}.csv").pairs == tasks.load(name).pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the columns x,y, found an empty line or file"),
        ("\n", "line 1: expected the columns x,y, found an empty line or file"),
        ("x\na\n", "line 1: expected the columns x,y, found x"),
        ("un,one\ndeux,two\n", "line 1: expected the columns x,y, found un,one"),
        ("X,Y\na,b\n", "line 1: expected the columns x,y, found X,Y"),
        ("x,y\n", "line 2: no pairs"),
        ("x,y\n\n\n", "line 2: no pairs"),
        ("x,y\na,b\nc,\n", "line 3: blank y"),
        ("x,y\na,b\nc\n", "line 3: blank y"),
        ("x,y\na,b\n  ,d\n", "line 3: blank x"),
        ("x,y\na,b\n,\n", "line 3: blank x"),
        ("x,y\na,b\nc,d\na,e\n", "line 4: x='a' is already on line 2"),
        ("x,y\na,b\na ,b\n", "line 3: x='a' is already on line 2"),
        ("x,y\na,b,a\n", "line 2: too many cells"),
        ("x,y\na," + 200_000 * "b", "after line 1: expected CSV in UTF-8; field larger"),
    ],
)
def test_read_refuses_bad_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        tasks.read(write(tmp_path, text))
    assert str(tmp_path / "mine.csv") in str(error.value)


def test_read_refuses_other_encodings(tmp_path):
    with pytest.raises(ValueError, match=r"mine\.csv.*expected CSV in UTF-8"):
        tasks.read(write(tmp_path, "x,y\nété,summer\n", "latin-1"))


def test_read_refuses_missing_files(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match="header x,y"):
            tasks.read(path)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(str.strip).filter(bool)


@given(st.dictionaries(CELLS, CELLS, min_size=1))
def test_read_returns_what_a_csv_writer_wrote(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("csv") / "mine.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("x", "y"), *pairs.items()])
    assert tasks.read(path).pairs == tuple(pairs.items())


def test_a_task_reversed_and_both_ways():
    task = tasks.Task("t", "c", (("a", "A"), ("b", "B"), ("c", "B"), ("d", "D")))
    assert task.reversed().pairs == (("A", "a"), ("B", "c"), ("D", "d"))
    assert task.both_ways().pairs == (("A", "a"), ("b", "B"), ("B", "c"), ("d", "D"))
    assert (task.reversed().name, task.both_ways().name, task.both_ways().category) == ("t ←", "t ↔", "c")
    with pytest.raises(ValueError, match="'b' is a query twice"):
        tasks.Task("t", "c", (("a", "b"), ("b", "c"))).both_ways()


@pytest.mark.parametrize("name", ["to_upper", "plural_singular", "present_gerund"])
def test_both_ways_no_pair_is_in_both_halves_or_turned_round(name):
    two_way = tasks.load(name).both_ways()
    assert len({frozenset(pair) for pair in two_way.pairs}) == len(two_way.pairs)
