"""Where the built book is, and which pages it has."""

from pathlib import Path

from course_lib.book.contents import chapters
from course_lib.book.files import listed

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
PAGES = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in listed(ROOT)]
CHAPTERS = [chapter.path.relative_to(ROOT).with_suffix(".html").as_posix() for chapter in chapters(ROOT)]
EVERY = [*PAGES, "search.html", "genindex.html"]
