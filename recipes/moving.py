"""The animation at the top of the README: ``python recipes/moving.py`` writes ``docs/drag.gif``.

It opens the page in a browser, drags λ from one adapter to the other and beyond, and records the
screen. Nothing is staged: each number was computed while the thumb moved.
"""

import argparse
import io
import math
import shutil
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from served import served
from tqdm.auto import tqdm

from copra_lab.utils.files import write_atomically

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 1180, 1010
FRAMES, EVERY = 48, 0.11
"""The number of frames, and the seconds between two."""

COLOURS = 200


def path(share: float) -> float:
    """λ at a share of the time: to B, beyond it, and back to the middle, slower at the ends."""
    ease = lambda x: 0.5 - 0.5 * math.cos(math.pi * x)  # noqa: E731
    return 1.3 * ease(share / 0.62) if share < 0.62 else 1.3 - 0.8 * ease((share - 0.62) / 0.38)


def recorded(page: Page) -> list[Image.Image]:
    thumb = page.locator("#blend-weight input[type=range]")
    page.wait_for_function(
        "(n => n && n.dataset.n && n.dataset.n === n.dataset.total)"
        "(document.querySelector('#blend-number .now'))",
        timeout=120_000,
    )
    page.locator("#blend-clear").click()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    track = thumb.bounding_box()
    assert track
    x, y = (
        (lambda weight: track["x"] + 10 + (track["width"] - 20) * (weight + 0.5) / 2),
        track["y"] + track["height"] / 2,
    )
    page.mouse.move(x(0), y)
    page.mouse.down()
    shots = []
    for i in tqdm(range(FRAMES), desc="recording"):
        due = time.monotonic() + EVERY
        page.mouse.move(x(path(i / (FRAMES - 1))), y)
        shots.append(page.screenshot())
        page.wait_for_timeout(max(0, 1000 * (due - time.monotonic())))
    page.mouse.up()
    page.wait_for_timeout(2500)
    shots.append(page.screenshot())
    return [Image.open(io.BytesIO(s)).convert("RGB") for s in shots]


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "drag.gif")
    a = p.parse_args()
    chromium = next(
        (c for c in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if c), None
    )
    if chromium is None:
        p.error("there is no chromium on PATH; on Debian: apt install chromium")
    with served() as (url, _), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(f"{url}/?view=blend&tour=0")
        shots = [
            s.resize((WIDTH * 2 // 3, HEIGHT * 2 // 3), Image.Resampling.LANCZOS)
            for s in recorded(page)
        ]
        browser.close()
    several = Image.new("RGB", (3 * shots[0].width, shots[0].height))
    for i, shot in enumerate((shots[0], shots[FRAMES // 2], shots[-1])):
        several.paste(shot, (i * shot.width, 0))
    palette = several.quantize(COLOURS)
    frames = [s.quantize(palette=palette, dither=Image.Dither.NONE) for s in shots]
    data = io.BytesIO()
    frames[0].save(
        data,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[int(1000 * EVERY)] * FRAMES + [3000],
        loop=0,
        optimize=True,
    )
    write_atomically(a.out, data.getvalue())
    print(f"{a.out}: {len(data.getvalue()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
