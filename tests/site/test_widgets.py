"""The built pages, opened as files: their widgets can be used without a server or a kernel."""

import pytest
from built import CHAPTERS, PAGES
from looks import assert_drawn


@pytest.mark.parametrize("file", PAGES, indirect=True)
def test_pages_are_whole_as_files(file, whole):
    assert_drawn(file)


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
        slider.focus()  # as it opened
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
