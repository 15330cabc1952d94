"""Which notebooks are rejected."""

import re

import nbformat
import pytest
from nbformat import v4

from course_lib.book.lint import lint

ALT = "One curve that rises from 0 to 1 over three steps."


def output(text):
    return v4.new_output("stream", name="stdout", text=text)


def exercise(n):
    """The cells of an exercise: its text, a stub that is not right yet, and the solution."""
    hints = "\n\n".join(f"<details><summary>Hint {i}</summary>\n\nThink.\n\n</details>" for i in (1, 2))
    text = f"### Exercise {n} · Rise (●○○, 5 minutes)\n\nRise.\n\n{hints}"
    stub = v4.new_code_cell("exercise.rise.check(rise)", outputs=[output(f"✗ Exercise {n}, not yet: no\n")])
    solution = v4.new_code_cell("exercise.rise.check(solution)", metadata={"tags": ["hide-cell", "solution"]})
    solution.outputs = [output(f"✓ Exercise {n}: right on 2 fresh inputs\n")]
    return [v4.new_markdown_cell(text), stub, solution]


def good():
    """A chapter that keeps every rule."""
    code = [
        v4.new_code_cell("fig = draw()"),
        v4.new_code_cell("figure(fig)\nclaim('It rises', 1, at_least=1)"),
    ]
    picture = {"text/html": f'<img alt="{ALT}" src="data:/tmp/">', "text/plain": "Figure 1. It rises\n[…]"}
    code[1].outputs = [v4.new_output("display_data", data=picture), output("✓ It rises\n")]
    text = [
        "# Rising\n\n*Chapter 3 · Attention*\n\n*Runs in 4 s and 0.3 GB on two CPU cores.*",
        "## In this chapter you will\n\n- see;\n- hear;\n- say.",
        "## It rises\n\n```text\n# no title\n```",
        "## What would change our mind?\n\nA control.",
        "## Exercises\n\nThree.",
        "## Summary\n\n- It rises.",
    ]
    text = [v4.new_markdown_cell(source) for source in text]
    exercises = [cell for n in (1, 2, 3) for cell in exercise(n)]
    cells = [*text[:3], *code, *text[3:5], *exercises, *text[5:]]
    for n, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = n
    return v4.new_notebook(cells=cells, metadata={"course": {"question": "Does it?"}})


def problems(tmp_path, notebook, name="attention/rising.ipynb", end="\n"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(notebook) + end, encoding="utf-8")
    return lint(path)


def test_good_chapter_has_no_problems(tmp_path):
    assert problems(tmp_path, good()) == []


def set_source(cell, source):
    return lambda nb: nb.cells[cell].update(source=source)


def add_output(out):
    return lambda nb: nb.cells[4].outputs.append(out)


def same_picture(nb):
    nb.cells[4].outputs.append(nb.cells[4].outputs[0].copy())


PNG = v4.new_output("display_data", data={"image/png": "AAAA"})
BAD = {
    "execution counts": lambda nb: nb.cells[3].update(execution_count=None),
    "counts must be 1 to 8": lambda nb: nb.cells[4].update(execution_count=3),
    "has no output": lambda nb: nb.cells[4].update(outputs=[]),
    "ends in ZeroDivisionError": add_output(
        v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])
    ),
    "prints to stderr": add_output(v4.new_output("stream", name="stderr", text="hm")),
    "contains a warning": add_output(output("FutureWarning: soon")),
    "contains a progress bar": add_output(output("100%|████| 5/5")),
    "a progress bar": add_output(output("[00:01, 3.20it/s]")),
    "the absolute path /home/": add_output(output("saved to /home/me/x")),
    "the absolute path /tmp/": set_source(3, "open('/tmp/x')"),
    r"the absolute path C:\\": set_source(2, r"## It rises: C:\Users\me"),
    "picture with an alt text": add_output(PNG),
    "alt text of less": add_output(v4.new_output("display_data", data={"text/html": '<img alt="curve">'})),
    "an alt text of less": add_output(v4.new_output("display_data", data={"text/html": "<img>"})),
    "ends with a semicolon": set_source(3, "fig = draw();"),
    "prints its time": set_source(3, "%%time\ndraw()"),
    "one title": set_source(2, "# Another\n\n## It rises"),
    "line '\\*Runs in": set_source(0, "# Rising\n\n*Chapter 3 · Attention*"),
    "line '\\*Chapter": set_source(0, "# Rising\n\n*Runs in 4 s on two CPU cores.*"),
    "says 'chapters\n08': link": set_source(2, "## It rises\n\nAs in chapters\n08 and 9"),
    "says '{.*}': link": set_source(2, "## It rises\n\nAs in {" + "doc}`falling`"),
    "no section 'In this chapter": set_source(1, "## Aims\n\n- see;\n- hear;\n- say."),
    "lists 3 to 5 aims, got 2": set_source(1, "## In this chapter you will\n\n- see;\n- hear."),
    "lists 3 to 5 aims, got 6": set_source(1, "## In this chapter you will\n" + "- see;\n" * 6),
    "no section 'What would": set_source(5, "## Doubts"),
    "no section 'Exercises'": set_source(6, "### Exercises"),
    "no section 'Summary'": set_source(-1, "## The end"),
    "summary has at most 6": set_source(-1, "## Summary\n" + "- It rises.\n" * 7),
    "'It rises' shows results and claims nothing": set_source(4, "figure(fig)\nreclaim(fig)"),
    "'It rises' shows results and claims": set_source(4, "drag_query(V, q)"),
    "21 lines": set_source(3, "a = 1\n" * 21),
    "median": lambda nb: [cell.update(source=f"{cell.source}\n" + "b = 1\n" * 9) for cell in nb.cells[3:]],
    r"figures must be numbered 1 to 2 in order, got \[1, 1\]": same_picture,
    r"1 to 1 in order, got \[4\]": lambda nb: (
        nb.cells[4].outputs[0].data.update({"text/plain": "Figure 4. It"})
    ),
    "course.question": lambda nb: nb.metadata.clear(),
    "3 to 5 exercises, got 2": lambda nb: nb.cells.__delitem__(slice(13, 16)),
    "start with '### Exercise 1 ·": set_source(7, "### Exercise 1 · Rise\n<details><details>"),
    "start with '### Exercise 2 ·": set_source(10, exercise(1)[0].source),
    "exercise 3 has fewer than two hints": set_source(13, exercise(3)[0].source.partition("</details>")[0]),
    "exercise 1 has no stub": lambda nb: nb.cells[8].update(outputs=[output("✓ Exercise 1: right\n")]),
    "exercise 2 has no folded solution": lambda nb: nb.cells[12].metadata.update(tags=["solution"]),
    "is folded and not tagged": lambda nb: nb.cells[3].metadata.update(tags=["hide-cell"]),
}


@pytest.mark.parametrize("message", BAD)
def test_each_rule_catches_its_problem(tmp_path, message):
    notebook = good()
    BAD[message](notebook)
    assert re.search(message, "\n".join(problems(tmp_path, notebook)))


def test_file_ends_with_a_newline(tmp_path):
    assert problems(tmp_path, good(), end="") == ["the file does not end with a newline"]


def test_other_notebooks_have_only_the_common_rules(tmp_path):
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1 + 1", execution_count=1)])
    assert problems(tmp_path, notebook, name="findings.ipynb") == []
    assert problems(tmp_path, notebook, name="attention/rising.ipynb")
