"""The search of the built book."""

import pytest


@pytest.mark.parametrize("term", ["demonstrations", "softmax"])
def test_search_finds_a_term(visit, term):
    page = visit(f"search.html?q={term}")
    page.wait_for_selector("ul.search li a")
    links = page.locator("ul.search li a").evaluate_all("(links) => links.map((link) => link.href)")
    assert any("book/" in link for link in links)


def test_search_of_nonsense_finds_nothing(visit):
    page = visit("search.html?q=xyzzyplugh")
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('did not match')")
    assert page.locator("ul.search li").count() == 0
