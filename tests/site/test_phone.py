"""The built pages on a phone."""

import pytest
from built import EVERY
from looks import assert_accessible, number


@pytest.mark.parametrize("narrow", EVERY, indirect=True)
def test_narrow_page_has_no_serious_accessibility_problem(narrow):
    assert_accessible(narrow.page)


@pytest.mark.parametrize("narrow", EVERY, indirect=True)
def test_nothing_scrolls_sideways_on_a_phone(narrow):
    assert number(narrow.page, "document.documentElement.scrollWidth") <= 390
