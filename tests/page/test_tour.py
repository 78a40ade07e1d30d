"""The guided tour: it points at what is there, by mouse and keyboard, and nobody is invited twice."""

import asyncio
import json
import re

import pytest
from visitor import Visitor

from copra_lab.page import VIEWS, build
from copra_lab.page.components.tour import STEPS, html


def test_every_step_points_at_what_is_on_the_page():
    async def built():
        return build()

    ids = {c["props"].get("elem_id") for c in asyncio.run(built()).get_config_file()["components"]}
    assert {s.at for s in STEPS} <= ids
    assert {s.view for s in STEPS} <= {v.name for v in VIEWS}
    assert 4 <= len(STEPS) <= 6
    assert html(STEPS).count("<dialog") == 1


def test_words_of_a_step_are_text():
    evil = STEPS[0]._replace(words='"><script>x</script>')
    assert "<script" not in html([evil])


def shown(page) -> dict:
    return page.evaluate("""() => {
      const box = e => { const {left, top, right, bottom} = e.getBoundingClientRect(); return [left, top, right, bottom]; };
      const [at] = document.querySelector('#tour-at').innerText.split(' of ').map(Number);
      const step = JSON.parse(document.querySelector('#tour').dataset.steps)[at - 1];
      return {step, card: box(document.querySelector('#tour .step')), ring: box(document.querySelector('#tour .ring')),
              target: box(document.getElementById(step.at)), view: document.querySelector('nav a[aria-current]').dataset.view,
              title: document.querySelector('#tour-title').innerText}; }""")


RINGED = """() => {
  const [at] = document.querySelector('#tour-at').innerText.split(' of ').map(Number);
  const target = document.getElementById(JSON.parse(document.querySelector('#tour').dataset.steps)[at - 1].at);
  const [t, r] = [target, document.querySelector('#tour .ring')].map(e => e.getBoundingClientRect());
  return [t.left - 6 - r.left, t.top - 6 - r.top, t.right + 6 - r.right, t.bottom + 6 - r.bottom].every(d => Math.abs(d) < 1); }"""
"""The ring stands six pixels around what the step points at."""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_tour_goes_through_the_views_by_keyboard_and_back(browser, url, width):
    visitor = Visitor(browser, url, "prune", width=width, height=844)
    page = visitor.page
    visitor.pruned()
    assert not page.locator("#tour-invitation").is_visible()  # a program drives this browser
    page.get_by_role("button", name="Tour", exact=True).press("Enter")
    for i, step in enumerate(STEPS):
        page.wait_for_function(
            "n => document.querySelector('#tour-at').innerText.startsWith(n + ' of')", arg=i + 1
        )
        page.wait_for_function("id => document.getElementById(id).offsetHeight > 0", arg=step.at)
        page.wait_for_function(
            RINGED
        )  # what the view draws on opening may move its controls: the ring follows
        now = shown(page)
        assert (now["title"], now["view"]) == (step.title, step.view)
        assert now["card"][0] >= 0
        assert now["card"][1] >= 0
        assert now["card"][2] <= width
        assert now["card"][3] <= 844
        page.evaluate(
            "id => document.getElementById(id).closest('.column, .form, .gap, "
            "div').style.marginTop = '40px'",
            step.at,
        )
        page.wait_for_function(RINGED)
        page.keyboard.press("ArrowRight")  # at the last one it stays
    for _ in range(5):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('#tour')"
        )
    page.keyboard.press("ArrowLeft")
    assert shown(page)["title"] == STEPS[-2].title
    page.keyboard.press("Escape")
    page.wait_for_url("**/?view=prune")  # a dialog says that it is closed a moment after it is
    assert not page.locator("#tour .step").is_visible()
    assert page.evaluate("document.activeElement.id") == "tour-open"
    assert page.locator("#view-prune").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visitor.leave()


@pytest.mark.browser
def test_a_link_opens_the_tour_and_its_end_is_where_it_began(browser, url):
    visitor = Visitor(browser, url, "shapley&tour=1")
    page = visitor.page
    page.locator("#tour .step").wait_for()
    for _ in STEPS[1:]:
        page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Done").click()
    page.wait_for_url(
        re.compile(r"\?view=shapley(&layer=\d+)?$")
    )  # as it was left: by now the layer that counts most may be known
    assert not page.locator("#tour .step").is_visible()
    assert page.locator("#view-shapley").is_visible()
    visitor.leave()


@pytest.mark.browser
def test_a_first_visit_is_invited_once(browser, url):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.add_init_script(
        "Object.defineProperty(Navigator.prototype, 'webdriver', {get: () => false})"
    )
    page = context.new_page()
    page.goto(url)
    page.get_by_role("complementary", name="Invitation").wait_for(timeout=60_000)
    box = page.locator("#tour-invitation").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
    assert box["height"] < 200
    page.get_by_role("button", name="No, thanks").click()
    assert not page.locator("#tour-invitation").is_visible()
    for address in (url, f"{url}/?tour=0"):
        page.goto(address)
        page.wait_for_selector("nav a[aria-current]")
        page.wait_for_timeout(300)
        assert not page.locator("#tour-invitation").is_visible()
    assert (
        json.loads(page.evaluate("JSON.stringify(Object.keys(localStorage))")).count(
            "copra-lab-tour"
        )
        == 1
    )
    context.close()
