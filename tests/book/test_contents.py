"""What follows from the order in `_toc.yml`: numbers, neighbours and tables of chapters."""

import json
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from course_lib.book import contents, costs, files

TOC = """\
root: book/intro
parts:
- caption: Attention
  numbered: 1
  chapters:
  - file: book/attention/near
- caption: Writing the prompt
  numbered: 1
  chapters:
  - file: book/prompting/far
  - file: book/prompting/wide
- caption: Reference
  chapters:
  - file: book/notes
"""
MARKED = "before\n<!-- chapters -->\nold\n<!-- /chapters -->\nafter\n"


def save(root, name, *cells, **metadata):
    path = root / "book" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(v4.new_notebook(cells=list(cells), metadata=metadata)) + "\n")
    return path


def first(root, name):
    return files.read(root / "book" / f"{name}.ipynb").cells[1].source


@pytest.fixture
def book(tmp_path):
    """A book of three chapters in two parts, none of which says its place yet."""
    for name, title in (("attention/near", "Near?"), ("prompting/far", "Far"), ("prompting/wide", "Wide")):
        code, text = v4.new_code_cell("1"), v4.new_markdown_cell(f"# {title}\n\n*Runs in 9 s.*\n\nText.")
        save(tmp_path, name, code, text, course={"question": f"Is it {title.lower().strip('?')}?"})
    save(tmp_path, "notes", v4.new_markdown_cell("# Notes"))
    (tmp_path / "_toc.yml").write_text(TOC)
    for page in ("README.md", "book/intro.md", "book/teaching.md"):
        (tmp_path / page).write_text(MARKED)
    entry = {"seconds": 130, "memory_gb": 1.4}
    (tmp_path / "book" / "runtimes.json").write_text(json.dumps({"prompting/far": entry}))
    return tmp_path


def test_chapters_are_counted_through_the_numbered_parts(book):
    found = contents.chapters(book)
    assert [(chapter.number, chapter.part, chapter.title) for chapter in found] == [
        (1, "Attention", "Near?"),
        (2, "Writing the prompt", "Far"),
        (3, "Writing the prompt", "Wide"),
    ]


def test_each_chapter_says_its_place_once(book):
    assert len(contents.update(book)) == 6
    places = [
        "*Chapter 1 · Attention · after it [Far](../prompting/far.ipynb)*",
        "*Chapter 2 · Writing the prompt · before it [Near?](../attention/near.ipynb), after it "
        "[Wide](wide.ipynb)*",
        "*Chapter 3 · Writing the prompt · before it [Far](far.ipynb)*",
    ]
    names = ("attention/near", "prompting/far", "prompting/wide")
    for name, title, place in zip(names, ("Near?", "Far", "Wide"), places, strict=True):
        assert first(book, name) == f"# {title}\n\n{place}\n\n*Runs in 9 s.*\n\nText."
    assert contents.changes(book) == {}
    assert contents.update(book) == []


def test_another_order_is_another_place(book):
    contents.update(book)
    (book / "_toc.yml").write_text(TOC.replace("far", "x").replace("wide", "far").replace("/x", "/wide"))
    assert [path.stem for path in contents.changes(book)][:3] == ["near", "wide", "far"]
    contents.update(book)
    assert first(book, "prompting/far").splitlines()[2] == (
        "*Chapter 3 · Writing the prompt · before it [Wide](wide.ipynb)*"
    )
    assert first(book, "prompting/far").count("*Chapter") == 1


def test_the_only_chapter_has_no_neighbours(book):
    start, end = TOC.index("- caption: Writing"), TOC.index("- caption: Reference")
    (book / "_toc.yml").write_text(TOC[:start] + TOC[end:])
    contents.update(book)
    assert first(book, "attention/near").splitlines()[2] == "*Chapter 1 · Attention*"


def test_measured_costs_are_written_into_the_first_cell(book):
    path = book / "book" / "prompting" / "far.ipynb"
    path.write_text(path.read_text().replace("*Runs in 9 s.*", "*Runs in 9 s and 9 GB on two CPU cores.*"))
    contents.update(book)
    assert "\n*Runs in 2 min and 1.4 GB on two CPU cores.*\n" in first(book, "prompting/far")
    costs.record(book, {path: costs.Cost(59.6, 0.24)})
    assert costs.runtimes(book) == {"prompting/far": {"cores": 2, "memory_gb": 0.2, "seconds": 60}}
    contents.update(book)
    assert "\n*Runs in 60 s and 0.2 GB on two CPU cores.*\n" in first(book, "prompting/far")


def test_tables_group_chapters_by_part(book):
    contents.update(book)
    assert (book / "book" / "intro.md").read_text() == (
        "before\n<!-- chapters -->\n"
        "| No. | Chapter | Question |\n"
        "| --- | --- | --- |\n"
        "|  | **Attention** |  |\n"
        "| 1 | [Near?](attention/near.ipynb) | Is it near? |\n"
        "|  | **Writing the prompt** |  |\n"
        "| 2 | [Far](prompting/far.ipynb) | Is it far? |\n"
        "| 3 | [Wide](prompting/wide.ipynb) | Is it wide? |\n"
        "<!-- /chapters -->\nafter\n"
    )
    assert "| 2 | [Far](book/prompting/far.ipynb) | Is it far? | 2.2 | 1.4 GB |\n" in (
        (book / "README.md").read_text()
    )
    assert "| 3 | [Wide](prompting/wide.ipynb) | Is it wide? |  |  |\n" in (
        (book / "book" / "teaching.md").read_text()
    )


def test_what_is_not_written_stays_as_it_is(book):
    before = files.read(book / "book" / "attention" / "near.ipynb")
    contents.update(book)
    after = files.read(book / "book" / "attention" / "near.ipynb")
    before.cells[1].source = after.cells[1].source
    assert before == after
    assert not list(book.rglob("*.part"))


def test_page_without_marks_is_named(book):
    (book / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match=r"README\.md needs the marks <!-- chapters -->"):
        contents.update(book)
    assert "*Chapter" not in first(book, "attention/near")


@pytest.mark.parametrize("text", ["Words first.\n\n# Near?", "## Near?"])
def test_chapter_without_a_title_is_named(book, text):
    path = save(book, "attention/near", v4.new_markdown_cell(text))
    with pytest.raises(ValueError, match=rf"{path.name} has no title"):
        contents.chapters(book)


def test_numbered_parts_hold_notebooks(book):
    (book / "_toc.yml").write_text(TOC.replace("Reference\n", "Reference\n  numbered: 1\n"))
    (book / "book" / "notes.ipynb").rename(book / "book" / "notes.md")
    with pytest.raises(ValueError, match=r"notes\.md is in the numbered part 'Reference'"):
        contents.chapters(book)


def test_contents_list_existing_files_only(tmp_path):
    (tmp_path / "intro.md").write_text("# Intro\n")
    (tmp_path / "one.ipynb").write_text("{}")
    (tmp_path / "_toc.yml").write_text(
        "root: intro\nparts:\n- caption: A\n  chapters:\n  - file: one\n    sections:\n    - file: two\n"
    )
    with pytest.raises(FileNotFoundError, match=r"'two'.*two\.ipynb"):
        files.listed(tmp_path)
    (tmp_path / "two.md").write_text("# Two\n")
    assert [path.name for path in files.listed(tmp_path)] == ["intro.md", "one.ipynb", "two.md"]
    assert files.key(Path("book/mechanisms/task-vectors.ipynb")) == "mechanisms/task-vectors"
