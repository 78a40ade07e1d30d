"""Someone on the real page, in a browser."""

import re
from urllib.parse import urlsplit

import pytest

from copra_lab.page.state.schemas.blend import HIGH, LOW


class Visitor:
    """A browser of one's own on the page."""

    def __init__(
        self, browser, url: str, view: str | None = None, width: int = 1280, height: int = 900
    ):
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._request)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.goto(f"{url}/?view={view}" if view else url)
        prunes = bool(view) and view.partition("&")[0] == "prune"
        self.thumb = self.page.locator(
            f"#{'prune-sparsity' if prunes else 'blend-weight'} input[type=range]"
        )
        self.low, self.high = (0, 100) if prunes else (LOW, HIGH)

    def _request(self, request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in (
            "127.0.0.1",
            "localhost",
        ):
            self.elsewhere.append(request.url)

    def grab(self) -> None:
        self.thumb.scroll_into_view_if_needed()
        self.track = self.thumb.bounding_box()  # measured once: nothing jumps
        self.drag(float(self.thumb.input_value()))
        self.page.mouse.down()

    def drag(self, *states: float) -> None:
        for state in states:
            x = (
                self.track["x"]
                + 10
                + (self.track["width"] - 20) * (state - self.low) / (self.high - self.low)
            )
            self.page.mouse.move(x, self.track["y"] + self.track["height"] / 2, steps=3)

    def drop(self) -> None:
        self.page.mouse.up()

    def settled(self, weight: float | None = None) -> dict:
        """The number that is shown, once it is for `weight` (None: where the thumb is) and on all
        images.
        """
        weight = float(self.thumb.input_value()) if weight is None else weight
        shown = """weight => {
          const trouble = document.querySelector('#blend-number .trouble'), now = document.querySelector('#blend-number .now');
          if (trouble) return {trouble: trouble.innerText};
          return now && now.dataset.n && parseFloat(now.dataset.weight) === weight && now.dataset.n === now.dataset.total
            ? {...now.dataset, text: now.innerText} : null; }"""
        found = self.page.wait_for_function(shown, arg=weight).json_value()
        if "trouble" in found:
            pytest.fail(found["trouble"])
        return found

    def pruned(self) -> dict:
        """The number of the Prune view, once it is for the switches and the slider as they stand
        and on all images.
        """
        shown = """() => {
          const trouble = document.querySelector('#prune-number .trouble'), now = document.querySelector('#prune-number .now');
          if (trouble) return {trouble: trouble.innerText};
          const on = id => [...document.querySelectorAll(`#${id} label`)].filter(l => l.querySelector('input').checked).map(l => l.innerText.trim()).join(' ');
          return now && now.dataset.n && now.dataset.n === now.dataset.total && now.dataset.layers === on('prune-layers')
            && now.dataset.kinds === on('prune-kinds') && now.dataset.sparsity === document.querySelector('#prune-sparsity input[type=range]').value
            ? {...now.dataset, text: now.innerText} : null; }"""
        found = self.page.wait_for_function(shown).json_value()
        if "trouble" in found:
            pytest.fail(found["trouble"])
        return found

    def switch(self, name: object, group: str = "layers"):
        return (
            self.page.locator(f"#prune-{group} label")
            .filter(has_text=re.compile(rf"^\s*{name}\s*$"))
            .locator("input")
        )

    def quiet(self, view: str = "blend") -> None:
        """Until positions passed by are filled in too, so that nothing runs any more."""
        self.page.wait_for_function(f"!document.querySelector('#{view}-chart .point.first')")

    def choose(self, menu: str, label: str) -> None:
        self.page.locator(f"#{menu} input").click()
        self.page.get_by_role("option", name=label, exact=True).click()

    def leave(self) -> None:
        self.context.close()
        assert self.elsewhere == []
        assert self.errors == []
