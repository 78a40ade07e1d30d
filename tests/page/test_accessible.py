"""The page and the site under axe, the checker of the field: nothing serious, in both themes and
both widths.
"""

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from copra_lab.page import VIEWS

SITE = Path(__file__).parents[2] / "build" / "site"
LOOKS = [("light", 1280), ("dark", 390)]


def serious(page) -> list[str]:
    """What axe finds that keeps somebody out, with where it is and why."""
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def test_every_view_can_be_used_by_everybody(browser, url, look):
    theme, width = look
    for view in VIEWS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        page = context.new_page()
        page.goto(f"{url}/?view={view.name}")
        page.locator(f"#view-{view.name}").wait_for(timeout=60_000)
        page.wait_for_timeout(3000)  # what the view measures on opening is drawn
        assert serious(page) == [], view.name
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def test_every_page_of_the_site_can_be_read_by_everybody(browser, look):
    theme, width = look
    pages = sorted(
        p for p in SITE.rglob("*.html") if "_modules" not in p.parts and p != SITE / "index.html"
    )  # which leads elsewhere at once
    if not pages:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the site is not built: make site")
    if theme == "dark":  # colours are those of a kind of page
        pages = [
            p
            for p in pages
            if p.stem in ("copra", "adapters", "04_drop_layers") or p.parent.name == "experiments"
        ]
        assert len(pages) == 4
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    for file in pages:
        page = context.new_page()
        page.goto(file.as_uri())
        assert serious(page) == [], file.name
        page.close()
    context.close()
