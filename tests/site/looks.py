"""What tests of pages look at in the same way."""

import pytest
from built import ROOT

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


def number(page, expression):
    return page.evaluate(f"() => {expression}")


def assert_drawn(page):
    assert number(page, "document.querySelectorAll('.math:not(:has(mjx-container))').length") == 0
    assert number(page, "document.querySelectorAll('mjx-merror').length") == 0
    views = number(page, "document.querySelectorAll('script[type$=\"widget-view+json\"]').length")
    assert page.locator(".scrub-now img, .drag svg").count() == views


def assert_accessible(page):
    if not AXE.exists():
        pytest.skip("axe-core is not there: run npm ci")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate(
        "() => axe.run({resultTypes: ['violations']}).then((found) => found.violations)"
    )
    grave = [v for v in violations if v["impact"] in ("serious", "critical")]
    found = [(v["id"], node["html"][:200], node["failureSummary"]) for v in grave for node in v["nodes"]]
    assert found == []
