"""Sphinx extension: pages carry what they load, load only what they use, and read well to a screen reader.

- MathJax is copied from `node_modules` (`npm ci`); without it pages load it from a CDN; the build says so.
- The theme's icons come from its web font alone: its script of 1.5 MB would draw them a second time, and its
  preloading of the fonts is an error on pages opened as files.
- Live cells (thebe) are not used; their scripts would be loaded on every page, one of them twice.
- Names and roles of some of the theme's elements contradict what is inside them.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

_MATHJAX = Path(__file__).parents[2] / "node_modules" / "mathjax" / "es5"
_UNUSED = shutil.ignore_patterns("*svg*", "*full*", "mml-*", "tex-mml-*", "node-*", "adaptors")
_THEBE = re.compile("thebe", re.IGNORECASE)
_REWRITES = {
    r'\s*<script src="[^"]*/fontawesome/[^"]*"></script>': "",
    r'\s*<link rel="preload" as="font"[^>]*/fontawesome/[^>]*>': "",
    r'(<button[^>]*\bsearch-button-field\b[^>]*) aria-label="Search"': r"\1",  # its text is "Search Ctrl+K"
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    r'role="doc-biblioentry"': 'role="listitem"',  # inside role="list"
}
_log = logging.getLogger(__name__)


def _choose_mathjax(app: Sphinx, config: Config) -> None:
    if _MATHJAX.is_dir():
        config.mathjax_path = "mathjax/tex-chtml.js"
    else:
        _log.info("No node_modules/mathjax: pages will load MathJax from a CDN. `npm ci` makes them whole.")


def _drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, []) if not _THEBE.search(_text(file))]


def _text(file: Any) -> str:
    return f"{getattr(file, 'filename', file)} {(getattr(file, 'attributes', None) or {}).get('body')}"


def _finish(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    if _MATHJAX.is_dir():
        shutil.copytree(_MATHJAX, Path(app.outdir, "_static", "mathjax"), ignore=_UNUSED, dirs_exist_ok=True)
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for old, new in _REWRITES.items():
            text = re.sub(old, new, text)
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("config-inited", _choose_mathjax)
    app.connect("html-page-context", _drop_thebe, priority=900)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
