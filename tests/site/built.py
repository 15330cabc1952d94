"""Where the built book is, and which pages it has."""

from pathlib import Path

from course_lib.book.files import listed

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
PAGES = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in listed(ROOT)]
CHAPTERS = [page for page in PAGES if page.removeprefix("book/")[:2].isdigit()]
EXTRA = ["search.html", "genindex.html"]
