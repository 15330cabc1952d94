"""Which tests `make quick` runs."""

import subprocess

import pytest

from course_lib.book import changed

FILES = {
    "course_lib/__init__.py": "",
    "course_lib/a/__init__.py": "",
    "course_lib/a/one.py": "",
    "course_lib/a/two.py": "",
    "course_lib/a/table.json": "",
    "course_lib/b/__init__.py": "from course_lib.b.inner import f\n",
    "course_lib/b/inner.py": "",
    "course_lib/b/other.py": "from course_lib.a.two import f\n",
    "tests/conftest.py": "",
    "tests/helper.py": "from course_lib import b\n",
    "tests/b/test_inner.py": "",
    "tests/b/test_by_name.py": "from course_lib.b import f\n",
    "tests/b/test_helped.py": "from helper import f\n",
    "tests/b/test_other.py": "from course_lib.b import other\n",
    "tests/test_house.py": "",
    "tests/a/test_one.py": "from course_lib.a import one\n",
    "tests/a/test_two.py": "from course_lib.a import (\n    two,\n)\n",
    "tests/a/test_deep.py": "def test_x():\n    from course_lib.a.one import f\n",
    "tests/book/test_notebooks.py": "",
    "tests/site/test_page.py": "from course_lib.a import one\n",
    "book/a/one.ipynb": "",
}


def git(root, *words):
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *words], cwd=root, check=True)


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


HOUSE = ["tests/test_house.py"]


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        ("course_lib/a/one.py", ["tests/a/test_deep.py", "tests/a/test_one.py", *HOUSE]),
        ("course_lib/a/two.py", ["tests/a/test_two.py", "tests/b/test_other.py", *HOUSE]),
        (
            "course_lib/a/table.json",
            ["tests/a/test_deep.py", "tests/a/test_one.py", "tests/a/test_two.py", *HOUSE],
        ),
        (
            "course_lib/b/inner.py",
            ["tests/b/test_by_name.py", "tests/b/test_helped.py", "tests/b/test_inner.py", *HOUSE],
        ),
        ("course_lib/b/other.py", ["tests/b/test_other.py", *HOUSE]),
        ("tests/helper.py", ["tests/b/test_helped.py", *HOUSE]),
        ("tests/a/test_two.py", ["tests/a/test_two.py", *HOUSE]),
        ("tests/a/test_new.py", ["tests/a/test_new.py", *HOUSE]),
        ("book/a/one.ipynb", ["tests/book/test_notebooks.py", *HOUSE]),
        ("README.md", HOUSE),
    ],
)
def test_tests_of_what_changed(root, name, tests):
    assert changed.tests_of(root, changed.changed(root)) == HOUSE
    (root / name).write_text("# changed\nfrom course_lib.a import two\n" if "two" in name else "# changed\n")
    assert changed.tests_of(root, changed.changed(root)) == tests


def test_what_a_branch_has_committed_counts(root):
    git(root, "switch", "-q", "-c", "branch")
    (root / "course_lib/a/two.py").write_text("x = 1\n")
    git(root, "commit", "-q", "-am", "x")
    assert changed.changed(root) == ["course_lib/a/two.py"]
    git(root, "switch", "-q", "main")
    assert changed.changed(root) == []


def test_only_in_a_checkout(tmp_path):
    with pytest.raises(RuntimeError, match="git branch --list main"):
        changed.changed(tmp_path)
