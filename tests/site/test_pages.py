"""What a reader meets on the built pages; run by `make site`."""

import gzip
import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from bs4 import BeautifulSoup
from built import CHAPTERS, EVERY, HTML, PAGES, ROOT
from looks import assert_accessible, assert_drawn, number

from course_lib.book.pdf import WHOLE
from course_lib.book.repository import address, origin

KB = 1000


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_page_loads_in_silence_from_its_own_host(light, whole, site):
    light.page.wait_for_load_state("networkidle")
    assert light.said == []
    assert light.failed == []
    assert [url for url in light.asked if not url.startswith((site, "data:", "blob:"))] == []


@pytest.mark.parametrize("light", PAGES, indirect=True)
def test_math_is_typeset_and_widgets_are_drawn(light, whole):
    assert_drawn(light.page)


def test_some_page_has_math_and_some_a_slider():
    texts = [(HTML / path).read_text(encoding="utf-8") for path in PAGES]
    assert any('class="math ' in text for text in texts)
    assert any("widget-view+json" in text for text in texts)


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_page_has_no_serious_accessibility_problem(light):
    assert_accessible(light.page)


@pytest.mark.parametrize("dark", EVERY, indirect=True)
def test_dark_page_has_no_serious_accessibility_problem(dark):
    assert_accessible(dark.page)


@pytest.mark.parametrize("light", PAGES, indirect=True)
def test_headings_descend_by_one_and_pictures_have_texts(light):
    levels = light.page.evaluate(
        "() => [...document.querySelectorAll('article :is(h1,h2,h3,h4,h5,h6)')].map((h) => +h.tagName[1])"
    )
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    alts = light.page.evaluate(
        "() => [...document.querySelectorAll('article img')].map((image) => image.alt)"
    )
    assert all(len(alt) >= 20 for alt in alts)


@pytest.mark.parametrize("dark", PAGES, indirect=True)
def test_dark_page_is_dark(dark):
    colour = dark.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_nothing_scrolls_sideways(light):
    assert number(light.page, "document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("light", PAGES, indirect=True)
def test_page_is_light(light, capsys):
    light.page.wait_for_load_state("networkidle")
    bodies = [response.body() for response in light.responses]
    saved = light.page.locator("script[type$='widget-state+json']").all_text_contents()
    frames = "".join(saved).encode()
    whole = sum(map(len, bodies))
    sent = sum(len(gzip.compress(body)) for body in bodies)  # as web hosts send it
    first = sent - len(gzip.compress(frames))
    with capsys.disabled():
        sizes = f"{whole / KB:.0f} kB, sent as {sent / KB:.0f} kB, {first / KB:.0f} kB without frames"
        print(f"\n{light.path}: {sizes}")
    assert first < 2000 * KB
    assert whole < 4000 * KB


@pytest.mark.parametrize("light", CHAPTERS, indirect=True)
def test_chapter_has_its_buttons_and_costs(light):
    page, name = light.page, light.path.replace(".html", ".ipynb")
    links = page.locator("a[href]").evaluate_all("(links) => links.map((link) => link.href)")
    assert any(link.endswith(f"_sources/{name}") for link in links)
    if url := address(ROOT) or origin(ROOT):
        repository = url.removeprefix("https://github.com/")
        assert f"https://colab.research.google.com/github/{repository}/blob/main/{name}" in links
        assert f"{url}/edit/main/{name}" in links
        assert any(link.startswith(f"{url}/issues/new") for link in links)
    else:
        assert [link for link in links if re.search(r"//(colab\.research|mybinder)\.", link)] == []
        assert page.locator(".article-header-buttons a[href*='github.com']").count() == 0
    assert page.locator("a.left-prev").count() == page.locator("a.right-next").count() == 1
    costs = json.loads((ROOT / "book" / "runtimes.json").read_text(encoding="utf-8"))[name[5:-6]]
    assert f"{costs['memory_gb']} GB on two CPU cores" in page.locator("article").inner_text()


def test_every_link_inside_the_book_has_a_target():
    pages = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in HTML.rglob("*.html")
        if path.name != WHOLE
    }
    ids = {path: {tag["id"] for tag in page.select("[id]")} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for link in page.select("a[href]"):
            address, fragment = urldefrag(urljoin(path.as_uri(), link["href"]))
            if address.startswith("file:"):
                target = Path(unquote(address.removeprefix("file://")))
                if not target.exists() or (fragment and unquote(fragment) not in ids.get(target, [fragment])):
                    broken.append((path.name, link["href"]))
    assert broken == []
