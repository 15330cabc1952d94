"""The house: what may import what, by the syntax trees of library and notebooks; and how long a file is."""

import json
from pathlib import Path

import pytest

from course_lib.book.changed import imported
from course_lib.book.contents import chapters
from course_lib.book.files import PARTS

ROOT = Path(__file__).parents[1]
FLOORS = [  # imports go down only; what stands on one floor does not import one another
    {"packages", "stats"},
    {"data", "readouts", "synthetic"},
    {"lm", "scratch"},
    {"fewshot"},
    set(PARTS),
    {"studies", "exercises"},
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
BESIDE = {"page", "book"}  # what a page shows, and how the book is made
READER = ("studies", "results")  # of stored results: all of `studies` that a notebook may import
LONGEST = 350  # lines of a file


def sources():
    """Path, from the root, and code of every module and notebook."""
    found = {path.relative_to(ROOT).as_posix(): path for path in ROOT.glob("course_lib/**/*.py")}
    code = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    for path in ROOT.glob("book/*/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        each = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        lines = [line for text in each for line in text.splitlines() if not line.lstrip().startswith("%")]
        code[path.relative_to(ROOT).as_posix()] = "\n".join(lines)
    return code


def uses(text):
    """The modules of course_lib that some code uses, as the parts of their names behind course_lib."""
    names = (name.split(".") for name in imported(text))
    return {_module(rest) for room, *rest in names if room == "course_lib" and rest}


def _module(parts):
    """The longest beginning of a dotted name that is a module or a package."""
    while len(parts) > 1 and not any(
        (ROOT / "course_lib" / Path(*parts)).with_suffix(end).exists() for end in ("", ".py")
    ):
        parts = parts[:-1]
    return tuple(parts)


def problems(path, text):
    """What a module or notebook imports and must not, in words."""
    top, *rest = path.split("/")
    room = rest[0].removesuffix(".py")
    for other, *inner in uses(text):
        if other == room and not (room == "exercises" and inner[:1] not in ([], rest[1:2])):
            continue
        if top == "book":
            allowed = other == room or FLOOR.get(other, 9) < FLOOR["basics"] or other == "page"
            allowed |= (other, *inner[:1]) == READER or (other == "exercises" and inner[:1] == [room])
            why = "a notebook imports the ground, its own part and its exercises, page, and studies.results"
        elif room in BESIDE:
            allowed = room == "book" or other == "packages"
            why = "page imports nothing but packages"
        elif other == "page":
            allowed, why = room == "exercises", "only notebooks, exercises and book import page"
        elif room == "exercises" and other in PARTS:
            allowed, why = [other] == rest[1:2], "exercises import their own part"
        else:
            allowed = other in FLOOR and FLOOR[other] < FLOOR[room]
            why = f"imports go down: {other} does not stand below {room}"
        if not allowed:
            yield f"{path} imports {'.'.join((other, *inner))}: {why}"


CODE = sources()


@pytest.mark.parametrize("path", CODE)
def test_imports_go_down(path):
    if path != "course_lib/__init__.py":
        assert list(problems(path, CODE[path])) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("course_lib/packages.py", "from course_lib import lm"),
        ("course_lib/data/texts.py", "from course_lib.lm.model import load"),
        ("course_lib/readouts/averages.py", "from course_lib.synthetic import markov"),
        ("course_lib/lm/forward.py", "import course_lib.scratch.training"),
        ("course_lib/fewshot/cases.py", "from course_lib.prompting import selection"),
        ("course_lib/mechanisms/induction.py", "from course_lib.learning.duality import descend"),
        ("course_lib/prompting/ordering.py", "from course_lib.studies import results"),
        ("course_lib/lm/heads.py", "from course_lib.page import claim"),
        ("course_lib/studies/study.py", "from course_lib.page import claim"),
        ("course_lib/studies/study.py", "from course_lib.exercises.attention import projection"),
        ("course_lib/exercises/attention/projection.py", "from course_lib.studies import results"),
        ("course_lib/exercises/attention/projection.py", "from course_lib.prompting import selection"),
        ("course_lib/exercises/attention/projection.py", "from course_lib.exercises.basics import x"),
        ("course_lib/page/claims.py", "from course_lib import stats"),
        ("course_lib/lm/heads.py", "from course_lib.book import files"),
        ("book/attention/projection.ipynb", "from course_lib.mechanisms import induction"),
        ("book/attention/projection.ipynb", "from course_lib.studies.study import run"),
        ("book/attention/projection.ipynb", "from course_lib.exercises.basics import x"),
        ("book/attention/projection.ipynb", "from course_lib.book import lint"),
        ("book/attention/projection.ipynb", "def late():\n    import course_lib.learning.functions"),
    ],
)
def test_a_wrong_import_is_seen(path, line):
    assert list(problems(path, f"{CODE[path]}\n{line}\n")) != []


def belonging():
    """For each chapter the concept modules of its part that it imports, itself or by one another."""
    found = {}
    for chapter in chapters(ROOT):
        path = chapter.path.relative_to(ROOT).as_posix()
        part = path.split("/")[1]
        reached, new = set(), uses(CODE[path])
        while new:
            new = {name for name in new if name[0] == part and len(name) > 1} - reached
            reached |= new
            new = {name for of in new for name in uses(CODE[f"course_lib/{'/'.join(of)}.py"])}
        found[path] = reached
    return found


def test_concept_modules_and_chapters_belong_together():
    found = belonging()
    modules = {
        tuple(path.removesuffix(".py").split("/")[1:])
        for path in CODE
        if path.split("/")[1] in PARTS and path.startswith("course_lib/") and "__init__" not in path
    }
    assert modules == set().union(*found.values())
    assert {path for path, own in found.items() if not own} == {
        "book/basics/what-is-in-context-learning.ipynb"
    }
    assert ("fewshot",) in uses(CODE["book/basics/what-is-in-context-learning.ipynb"])
    assert set(found) == {path for path in CODE if path.startswith("book/")}


def test_tests_and_exercises_have_the_same_rooms():
    rooms = {path.parent.name for path in ROOT.glob("course_lib/*/__init__.py")}
    assert rooms == {*FLOOR, *BESIDE} - {"packages", "stats"} - {part for part in PARTS if part not in rooms}
    written = {
        path.split("/")[2]
        for path in CODE
        if path.startswith("course_lib/exercises/") and path.count("/") > 2
    }
    assert written == {path.split("/")[1] for path in CODE if path.startswith("book/")}
    without = {path.name for path in ROOT.glob("tests/*/") if path.name not in rooms} - {"__pycache__"}
    assert without == {"site", "colab"}


@pytest.mark.parametrize("folder", ["course_lib", "tests", "benchmarks", "book/_ext", "book/assets"])
def test_a_file_fits_in_the_head(folder):
    ends = (".py", ".js", ".css")
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ends
    }
    assert {name: n for name, n in lines.items() if n > LONGEST} == {}
