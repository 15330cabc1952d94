"""What a reader meets on the built pages; run by `make site`."""

import gzip
import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from bs4 import BeautifulSoup
from built import CHAPTERS, EXTRA, HTML, PAGES, ROOT

from course_lib.book.repository import address, origin

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
KB = 1000
EVERY = [*PAGES, *EXTRA]


def number(page, expression):
    return page.evaluate(f"() => {expression}")


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_page_loads_in_silence_from_its_own_host(light, whole, site):
    light.page.wait_for_load_state("networkidle")
    assert light.said == []
    assert light.failed == []
    assert [url for url in light.asked if not url.startswith((site, "data:", "blob:"))] == []


@pytest.mark.parametrize("light", PAGES, indirect=True)
def test_math_is_typeset_and_widgets_are_drawn(light, whole):
    assert_drawn(light.page)


@pytest.mark.parametrize("file", PAGES, indirect=True)
def test_pages_are_whole_as_files(file, whole):
    assert_drawn(file)


def assert_drawn(page):
    assert number(page, "document.querySelectorAll('.math:not(:has(mjx-container))').length") == 0
    assert number(page, "document.querySelectorAll('mjx-merror').length") == 0
    views = number(page, "document.querySelectorAll('script[type$=\"widget-view+json\"]').length")
    assert page.locator(".scrub-now img, .drag svg").count() == views


def test_some_page_has_math_and_some_a_slider():
    texts = [(HTML / path).read_text(encoding="utf-8") for path in PAGES]
    assert any('class="math ' in text for text in texts)
    assert any("widget-view+json" in text for text in texts)


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_page_has_no_serious_accessibility_problem(light):
    assert_accessible(light.page)


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_dark_page_has_no_serious_accessibility_problem(dark):
    assert_accessible(dark.page)


@pytest.mark.parametrize("narrow", EVERY, indirect=True)
def test_narrow_page_has_no_serious_accessibility_problem(narrow):
    assert_accessible(narrow.page, "color-contrast")  # the colours are those of wide pages


def assert_accessible(page, *but):
    if not AXE.exists():
        pytest.skip("axe-core is not there: run npm ci")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    options = {"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in but}}
    violations = page.evaluate("(how) => axe.run(how).then((found) => found.violations)", options)
    grave = [v for v in violations if v["impact"] in ("serious", "critical")]
    found = [(v["id"], node["html"][:200], node["failureSummary"]) for v in grave for node in v["nodes"]]
    assert found == []


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


@pytest.mark.parametrize("light", PAGES, indirect=True)
def test_dark_page_is_dark(dark):
    colour = dark.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60


@pytest.mark.parametrize("light", EVERY, indirect=True)
def test_nothing_scrolls_sideways(light):
    assert number(light.page, "document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("narrow", EVERY, indirect=True)
def test_nothing_scrolls_sideways_on_a_phone(narrow):
    assert number(narrow.page, "document.documentElement.scrollWidth") <= 390


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


@pytest.mark.parametrize("file", CHAPTERS, indirect=True)
def test_every_slider_moves_its_figure_and_says_so(file):
    for scrub in file.locator(".scrub").all():
        slider, picture, note = (
            scrub.get_by_role("slider"),
            scrub.locator("img:visible"),
            scrub.locator("p:visible"),
        )
        last = int(slider.get_attribute("max"))
        assert slider.get_attribute("aria-label").strip()
        slider.press("Home")
        seen = []
        for _ in range(last + 1):
            said = slider.get_attribute("aria-valuetext")
            assert scrub.locator("output").inner_text() in said
            assert said.endswith(note.inner_text())
            seen.append((said, picture.get_attribute("src"), picture.get_attribute("alt")))
            slider.press("ArrowRight")
        assert len(set(seen)) == len(seen)
        assert slider.input_value() == str(last)
        slider.click(position={"x": 3, "y": 10})
        assert picture.get_attribute("src") == seen[0][1]


@pytest.mark.parametrize("file", CHAPTERS, indirect=True)
def test_every_slider_plays_pauses_and_starts_again(file):
    for scrub in file.locator(".scrub").all():
        slider, button = scrub.get_by_role("slider"), scrub.get_by_role("button")
        slider.press("Home")
        last = slider.get_attribute("max")
        button.click()
        file.clock.run_for(700)
        assert (slider.input_value(), button.get_attribute("aria-label")[:6]) == ("1", "Pause:")
        button.click()
        file.clock.run_for(5000)
        assert slider.input_value() == "1"
        button.click()
        file.clock.run_for(60 * 600)
        assert (slider.input_value(), button.get_attribute("aria-label")[:5]) == (last, "Play:")
        button.click()
        assert slider.input_value() == "0"


@pytest.mark.parametrize("file", CHAPTERS, indirect=True)
def test_every_query_can_be_dragged(file):
    for drag in file.locator(".drag").all():
        handle, distances = drag.locator(".drag-query"), drag.locator("tr:last-child .drag-number")
        before = distances.all_inner_texts()
        handle.focus()
        for _ in range(10):
            file.keyboard.press("ArrowRight")
        assert distances.all_inner_texts() != before


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


def test_every_link_inside_the_book_has_a_target():
    pages = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in HTML.rglob("*.html")
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
