"""What every committed notebook must be; the rules behind `tests/book/test_notebooks.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from statistics import median

import nbformat
from nbformat import NotebookNode

from course_lib.book.contents import LAUNCH, PLACE
from course_lib.book.files import PARTS

BY_NUMBER = re.compile(r"\bchapters?\s+\d+\b(?! ·)|\{doc\}", re.IGNORECASE)  # but in the line of its place
_SHOWS = re.compile(r"(?<![\w.])(?:figure|table|scrub|drag_query)\(")
_CLAIMS = re.compile(r"(?<![\w.])claim\(")
_PATHS = re.compile(r"(?<![\w.:/])/(?:work|home|Users|tmp|root)/|\b[A-Z]:\\{1,2}Users")
_PROGRESS = re.compile(r"it/s\]|s/it\]|\d%\|")
_IMG = re.compile(r"<img\b[^>]*>")
_ALT = re.compile(r'\balt="([^"]*)"')
_FIGURE = re.compile(r"^Figure (\d+)\. ", re.MULTILINE)
_MIN_ALT, _MAX_LINES, _MAX_MEDIAN, _MAX_SUMMARY = 20, 20, 6, 6


@dataclass
class _Section:
    """What stands between one heading of level two and the next."""

    title: str
    lines: list[str] = field(default_factory=list)
    code: str = ""


def lint(path: Path) -> list[str]:
    """Lists what is wrong with a committed notebook; what stands in the folder of a part has more rules.

    Args:
        path: The notebook.

    Returns:
        One sentence for each problem, none for a good notebook.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    problems = [] if text.endswith("\n") else ["the file does not end with a newline"]
    problems += [*_counts(code), *_sources(notebook), *_outputs(code)]
    if path.parent.name in PARTS:
        problems += [*_chapter(notebook, code), *_figures(code), *_exercises(notebook)]
    return problems


def _counts(code: list[NotebookNode]) -> Iterator[str]:
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"execution counts must be 1 to {len(code)} in order, got {counts}"
    for n, cell in enumerate(code, 1):
        if not cell.outputs and (_SHOWS.search(cell.source) or _CLAIMS.search(cell.source)):
            yield f"code cell {n} shows or claims something and has no output"


def _sources(notebook: NotebookNode) -> Iterator[str]:
    for n, cell in enumerate(notebook.cells, 1):
        if found := _PATHS.search(cell.source):
            yield f"cell {n} contains the absolute path {found[0]}"
        if found := BY_NUMBER.search(cell.source):
            yield f"cell {n} says '{found[0]}': link to the chapter by its title"
        if cell.cell_type == "code":
            if cell.source.rstrip().endswith(";"):
                yield f"cell {n} ends with a semicolon"
            if "%%time" in cell.source:
                yield f"cell {n} prints its time"


def _outputs(code: list[NotebookNode]) -> Iterator[str]:
    for n, cell in enumerate(code, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {n} ends in {output.ename}"
                continue
            if output.get("name") == "stderr":
                yield f"code cell {n} prints to stderr"
            texts = _texts(output)
            for text in texts:
                if found := _PATHS.search(text):
                    yield f"the output of code cell {n} contains the absolute path {found[0]}"
                if _PROGRESS.search(text):
                    yield f"the output of code cell {n} contains a progress bar"
                if "Warning" in text:
                    yield f"the output of code cell {n} contains a warning"
            alts = [
                unescape(alt[1]) if (alt := _ALT.search(tag)) else "" for tag in _IMG.findall("".join(texts))
            ]
            if "image/png" in output.get("data", {}):
                alts.append(output.metadata.get("image/png", {}).get("alt", ""))
            if any(len(alt) < _MIN_ALT for alt in alts):
                yield f"code cell {n} shows a picture with an alt text of less than {_MIN_ALT} characters"


def _texts(output: NotebookNode) -> list[str]:
    """Everything readable in an output; pictures left out, whose letters are random."""
    texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
    return [re.sub(r'src="data:[^"]*"', "", text) for text in texts]


def _chapter(notebook: NotebookNode, code: list[NotebookNode]) -> Iterator[str]:
    titles, sections = _outline(notebook)
    by_name = {section.title.lower().rstrip("?"): section for section in sections}
    if len(titles) != 1:
        yield f"a chapter has one title, got {titles}"
    if not notebook.metadata.get("course", {}).get("question", "").strip():
        yield "the notebook metadata has no course.question"
    first = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    if not LAUNCH.search(first):
        yield "the first text cell has no line '*Runs in … on two CPU cores.*'"
    if not PLACE.search(first):
        yield "the first text cell has no line '*Chapter … · …*': run python -m course_lib.book.contents"
    for name in ("In this chapter you will", "What would change our mind", "Exercises", "Summary"):
        if name.lower() not in by_name:
            yield f"there is no section '{name}'"
    if aims := by_name.get("in this chapter you will"):
        count = sum(bool(re.match(r"[-*] ", line)) for line in aims.lines)
        if not 3 <= count <= 5:
            yield f"'In this chapter you will' lists 3 to 5 aims, got {count}"
    if (summary := by_name.get("summary")) and len(summary.lines) > _MAX_SUMMARY:
        yield f"the summary has at most {_MAX_SUMMARY} lines, got {len(summary.lines)}"
    for section in sections:
        if _SHOWS.search(section.code) and not _CLAIMS.search(section.code):
            yield f"the section '{section.title}' shows results and claims nothing"
    lengths = [len(cell.source.splitlines()) for cell in code]
    for n, length in enumerate(lengths, 1):
        if length > _MAX_LINES:
            yield f"code cell {n} has {length} lines, more than {_MAX_LINES}"
    if lengths and median(lengths) > _MAX_MEDIAN:
        yield f"the median length of the code cells is {median(lengths):g} lines, more than {_MAX_MEDIAN}"


def _figures(code: list[NotebookNode]) -> Iterator[str]:
    texts = (output.get("data", {}).get("text/plain", "") for cell in code for output in cell.outputs)
    numbers = [int(found[1]) for text in texts for found in _FIGURE.finditer(text)]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"figures must be numbered 1 to {len(numbers)} in order, got {numbers}"


def _exercises(notebook: NotebookNode) -> Iterator[str]:
    exercises: list[list[NotebookNode]] = []
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.match(r"##? ", cell.source):
            inside = False
        if cell.cell_type == "markdown" and cell.source.startswith("### Exercise"):
            exercises.append([])
            inside = True
        if inside:
            exercises[-1].append(cell)
        if "hide-cell" in _tags(cell) and "solution" not in _tags(cell):
            yield f"cell {cell.id} is folded and not tagged 'solution'"
    if not 3 <= len(exercises) <= 5:
        yield f"a chapter has 3 to 5 exercises, got {len(exercises)}"
    for number, cells in enumerate(exercises, 1):
        heading = rf"### Exercise {number} · .+ \((?:●○○|●●○|●●●), \d+ minutes\)$"
        if not re.match(heading, cells[0].source, re.MULTILINE):
            yield f"exercise {number} must start with '### Exercise {number} · Title (●○○, 5 minutes)'"
        if sum(cell.source.count("<details>") for cell in cells if cell.cell_type == "markdown") < 2:
            yield f"exercise {number} has fewer than two hints"
        solutions = [cell for cell in cells if {"hide-cell", "solution"} <= _tags(cell)]
        if f"✗ Exercise {number}, not yet" not in _printed(cell for cell in cells if cell not in solutions):
            yield f"exercise {number} has no stub whose check says what is missing"
        if f"✓ Exercise {number}: right" not in _printed(solutions):
            yield f"exercise {number} has no folded solution that passes its check"


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _printed(cells: Iterable[NotebookNode]) -> str:
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def _outline(notebook: NotebookNode) -> tuple[list[str], list[_Section]]:
    """Headings of level one, and the sections of level two with their text lines and code."""
    titles: list[str] = []
    sections = [_Section("")]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            sections[-1].code += cell.source + "\n"
            continue
        fenced = False
        for line in cell.source.splitlines():
            fenced ^= line.lstrip().startswith("```")
            if not fenced and line.startswith("# "):
                titles.append(line[2:].strip())
            elif not fenced and line.startswith("## "):
                sections.append(_Section(line[3:].strip()))
            elif line.strip():
                sections[-1].lines.append(line)
    return titles, sections
