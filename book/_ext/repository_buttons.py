"""Sphinx extension: pages have buttons for Colab, Binder and the repository if it has an address.

That is `repository.url` of `_config.yml` or, where it is empty, the `origin` of a clone of a repository on
GitHub. Without an address the theme could not make the links, and the pages go without these buttons.
"""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

from course_lib.book.repository import origin

_BUTTONS = ("launch_buttons", "use_repository_button", "use_issues_button", "use_edit_page_button")
_log = logging.getLogger(__name__)


def _choose_address(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    if options.get("repository_url"):
        return
    if url := origin(Path(app.srcdir)):
        _log.info("_config.yml has no repository.url: the buttons lead to %s, the origin of this clone.", url)
        options["repository_url"] = url
    else:
        for name in _BUTTONS:
            options.pop(name, None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("config-inited", _choose_address)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
