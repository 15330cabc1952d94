"""Sphinx extension: an inline script that the theme's extensions add twice appears once on each page."""

from typing import Any

from sphinx.application import Sphinx


def _once(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    seen: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        body = (getattr(script, "attributes", None) or {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
        if body is not None:
            seen.add(body)
    context["script_files"] = kept


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("html-page-context", _once, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
