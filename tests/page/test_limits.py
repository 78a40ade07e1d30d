"""What one visitor of the page can cost: every limit with small numbers, as functions and over the
network.
"""

import asyncio
import gc
import threading
import time
import tracemalloc
import weakref
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
import torch
from fastapi.middleware import Middleware
from gradio.context import LocalContext
from gradio.state_holder import SessionState
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_adapter
from tiny_page import LAB, TINY, triangle_state, walked

from copra_lab.models import load_clip
from copra_lab.page import build
from copra_lab.page.server import gradio_sessions, limits
from copra_lab.page.server.fair_queue import asking, fair
from copra_lab.page.server.guard import Guard, Uploads
from copra_lab.page.server.visitors import TooMuch, Visitors, in_turns
from copra_lab.page.state import layer_game as so
from copra_lab.page.state.lab import Lab, Own
from copra_lab.page.state.layer_game import Solving, sharpened
from copra_lab.page.state.schemas.triangle import MIDDLE
from copra_lab.page.state.session import Point, Session
from copra_lab.page.views.classify import uploaded_task
from copra_lab.page.views.train.waiting_line import Waiting

ROOT = Path(__file__).parents[2]


def test_security_says_every_limit_as_it_is():
    assert limits.table() in (ROOT / "SECURITY.md").read_text(encoding="utf-8")


# --- turns


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=4))
def test_everybody_has_a_turn_before_anybody_has_two(names, busy):
    waiting = list(enumerate(names))
    ordered = in_turns(waiting, lambda w: w[1], busy)
    assert sorted(ordered) == waiting
    for who in set(names):  # each keeps the order of its own
        own = [i for i, w in ordered if w == who]
        assert own == sorted(own)
    had = {w: busy.count(w) for w in "abc"}
    for (_, one), (_, two) in pairwise(ordered):
        assert had[one] <= had[two] or one == two
        had[one] += 1


def test_who_trains_in_a_loop_is_not_before_others():
    line = Waiting()
    first = line.join("loop 1", 10, "here")
    again = [line.join(f"loop {i}", 10, "here") for i in (2, 3)]
    other = line.join("other", 10, "elsewhere")
    assert [line.ahead(t) for t in (first, other, *again)] == [0, 1, 2, 3]
    line.leave(first)
    last = line.join("loop 1", 10, "here")  # at once again
    assert [line.ahead(t) for t in (other, *again, last)] == [0, 1, 2, 3]


def test_no_address_alone_fills_the_line_of_trainings():
    line = Waiting(most=4, of_address=3)
    for i in range(3):
        line.join(i, 10, "here")
    with pytest.raises(
        ValueError,
        match=r"^3 visitors from your network address are training or waiting already; try again in a few minutes$",
    ):
        line.join(3, 10, "here")
    assert line.ahead(line.join(3, 10, "elsewhere")) == 1
    with pytest.raises(ValueError, match=r"^4 visitors are training or waiting already"):
        line.join(4, 10, "a third place")


def test_a_handler_knows_whom_it_answers():
    assert asking() == ""
    token = LocalContext.request.set(SimpleNamespace(client=SimpleNamespace(host="10.0.0.7")))
    try:
        assert asking() == "10.0.0.7"
    finally:
        LocalContext.request.reset(token)


# --- visitors


def test_visitors_are_as_many_as_there_is_room_for():
    visitors = Visitors(lambda _: None, most=3, of_address=2)
    for name in "ab":
        visitors.comes(name, "here")
    with pytest.raises(
        TooMuch, match=r"^2 pages are open at your network address already; close some"
    ):
        visitors.comes("c", "here")
    visitors.comes("c", "elsewhere")
    with pytest.raises(TooMuch, match=r"^the page is full: 3 visitors are here already"):
        visitors.comes("d", "elsewhere")
    visitors.comes("a", "here")  # those who are here stay


def test_who_is_gone_is_forgotten_and_who_is_here_is_not():
    gone = []
    visitors = Visitors(gone.append, closed=0.06, idle=0.02)
    visitors.comes("program", "here")
    visitors.opened("page", "here")
    visitors.opened("lost", "here")
    visitors.left("lost")
    time.sleep(0.03)
    visitors.sweep()
    assert gone == ["program"]
    assert "page" in visitors
    assert "lost" in visitors
    visitors.opened("back", "here")
    visitors.left("back")
    visitors.opened("back", "here")  # the connection broke, and was made anew
    time.sleep(0.07)
    visitors.sweep()
    assert gone == ["program", "lost"]
    assert len(visitors) == 2


# --- before the page


class Network:
    """Asks a `Guard` in front of an application that reads what it is sent, and answers once it
    may.
    """

    def __init__(self, **bounds):
        self.goes_on, self.inside, self.read = asyncio.Event(), 0, []
        self.goes_on.set()
        self.visitors = Visitors(lambda _: None, of_address=2)
        self.guard = Guard(self._app, self.visitors, **bounds)

    async def _app(self, scope, receive, send):
        self.inside += 1
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        self.read.append((message["type"], size))
        await self.goes_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

    async def ask(self, path="/", body=(b"",), size=None, address="here", pause=0.0):
        """(status, text)"""
        parts, sent = list(body), []

        async def receive():
            await asyncio.sleep(pause)
            return (
                {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
                if parts
                else {"type": "http.disconnect"}
            )

        async def send(message):
            sent.append(message)

        headers = [] if size is None else [(b"content-length", str(size).encode())]
        await self.guard(
            {"type": "http", "path": path, "client": (address, 1), "headers": headers},
            receive,
            send,
        )
        return (
            (sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode())
            if sent
            else (None, "")
        )


def test_a_request_is_as_large_as_it_may_be_whatever_it_says_of_itself():
    async def run():
        net = Network(megabytes=0.001)
        assert await net.ask(body=[b"x" * 900], size=900) == (200, "fine")
        status, words = await net.ask(body=[b"x"], size=5000)
        assert status == 413
        assert "a request has at most 0.001 MB" in words
        assert net.inside == 1
        assert (await net.ask(body=[b"x" * 600] * 9))[0] == 413
        assert (await net.ask(body=[b"x" * 600] * 9, size=10))[0] == 413
        assert net.read == [("http.request", 900)]

    asyncio.run(run())


def test_a_request_that_drips_in_is_given_up():
    async def run():
        net = Network(seconds=0.05)
        assert (await net.ask(body=[b"x"] * 100, pause=0.02))[0] == 200
        assert net.read[0][0] == "http.disconnect"
        assert net.read[0][1] < 5

    asyncio.run(run())


def test_connections_of_one_address_leave_room_for_others():
    async def run():
        net = Network(connections=3, of_address=2)
        net.goes_on.clear()
        waiting = [asyncio.create_task(net.ask()) for _ in range(2)]
        await asyncio.sleep(0.01)
        status, words = await net.ask()
        assert status == 429
        assert "too many connections" in words
        waiting.append(asyncio.create_task(net.ask(address="elsewhere")))
        await asyncio.sleep(0.01)
        assert (await net.ask(address="a third place"))[0] == 429
        net.goes_on.set()
        assert await asyncio.gather(*waiting) == [(200, "fine")] * 3
        assert await net.ask() == (200, "fine")  # nothing is counted for ever

    asyncio.run(run())


def test_uploads_are_counted_for_an_hour():
    async def run():
        net = Network(uploads=Uploads(of_address=2, most=3, seconds=0.2))
        ask = partial(net.ask, "/gradio_api/upload", size=1_000_000)
        assert [(await ask())[0] for _ in range(3)] == [200, 200, 429]
        assert await ask() == (
            429,
            "the uploads of the last hour have filled the room that the page has for them; try "
            "again in an hour",
        )  # as text
        assert [(await ask(address="elsewhere"))[0] for _ in range(2)] == [200, 429]
        await asyncio.sleep(0.25)
        assert (await ask())[0] == 200

    asyncio.run(run())


UNUSED = [
    "/gradio_api/file=https://example.com/x", "/gradio_api/file=HTTP:/x", "/gradio_api/file/http://127.0.0.1/", "/file=http://x", "/monitoring",
    "/monitoring/summary", "/gradio_api/deep_link", "/gradio_api/component_server", "/gradio_api/proxy=https://x.hf.space/", "/gradio_api/dev/reload",
    "/gradio_api/process_recording", "/gradio_api/stream/1",
]  # fmt: skip


@pytest.mark.parametrize("path", UNUSED)
def test_doors_that_the_page_does_not_use_are_shut(path):
    net = Network()
    assert asyncio.run(net.ask(path)) == (404, '{"detail": "this page does not offer that"}')
    assert not net.inside


def test_an_open_page_is_a_visitor_until_it_is_closed():
    async def run():
        net = Network()
        net.goes_on.clear()
        pages = [asyncio.create_task(net.ask(f"/gradio_api/heartbeat/{name}")) for name in "ab"]
        await asyncio.sleep(0.01)
        assert {"a", "b"} <= set(net.visitors._known)
        status, words = await net.ask("/gradio_api/heartbeat/c")
        assert status == 429
        assert "2 pages are open" in words
        pages[0].cancel()
        await asyncio.gather(pages[0], return_exceptions=True)
        assert (net.visitors._known["a"].open, net.visitors._known["b"].open) == (0, 1)
        net.goes_on.set()
        await pages[1]

    asyncio.run(run())


# --- over the network


class Slow:
    """A page with one slow handler, a quick one, and what a visitor keeps; served with small
    limits.
    """

    def __init__(self, **bounds):
        self.goes_on, self.order, self.bounds = threading.Event(), [], bounds

    def work(self, name, session):
        session.own = getattr(session, "own", Kept())
        self.order.append(name)
        assert self.goes_on.wait(10)
        return name * 1000

    async def built(self, closed, idle):
        """In a loop: outside of one gradio makes one and never closes it."""
        with gr.Blocks(analytics_enabled=False) as page:
            state, box = gr.State(Room()), gr.Textbox()
            box.submit(self.work, [box, state], box, api_name="work", concurrency_limit=1)
        self.page = page.queue(max_size=6)
        self.visitors = Visitors(partial(gradio_sessions.forget, page), closed=closed, idle=idle)
        fair(page, self.visitors, **self.bounds)
        return page

    @contextmanager
    def served(self, closed=0.2, idle=0.2):
        page, loops, make = asyncio.run(self.built(closed, idle)), [], asyncio.new_event_loop
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # gradio makes some as it launches, and never closes them
            patch.setattr(asyncio, "new_event_loop", lambda: loops.append(make()) or loops[-1])
            _, url, _ = page.launch(
                prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False, pwa=False, run_history=False, footer_links=[],
                app_kwargs={"middleware": [Middleware(Guard, visitors=self.visitors)]},
            )  # fmt: skip
        try:
            with httpx.Client(base_url=url, timeout=10) as client:
                self.client = client
                yield self
        finally:
            self.goes_on.set()
            page.close(verbose=False)
            for loop in loops:
                loop.close()
            asyncio.set_event_loop(None)

    def ask(self, name, session=None):
        if session is None:
            return self.client.post("/gradio_api/call/work", json={"data": [name]})
        return self.client.post(
            "/gradio_api/queue/join",
            json={"data": [name, None], "fn_index": 0, "session_hash": session},
        )

    def until(self, true):
        for _ in range(500):
            if true():
                return
            time.sleep(0.01)
        pytest.fail("it did not come to that within five seconds")


class Kept:
    pass


class Room:
    """What Gradio keeps for a visitor, a new one for each."""

    def __deepcopy__(self, memo):
        return Room()


def test_one_visitor_who_asks_in_a_loop_does_not_keep_others_waiting():
    with Slow(waiting=4).served() as page:
        answers = [page.ask(f"a{i}", "loop") for i in range(6)]
        assert [a.status_code for a in answers] == [200] * 4 + [429] * 2
        assert answers[-1].json() == {
            "detail": "4 of your requests are waiting already; ask again when some of them have been answered"
        }
        assert page.ask("b0", "other").status_code == 200
        page.until(lambda: page.order)
        page.goes_on.set()
        page.until(lambda: len(page.order) == 5)
        assert page.order == ["a0", "b0", "a1", "a2", "a3"]


@pytest.mark.slow
def test_the_queue_ends_and_one_address_is_not_all_of_it():
    with Slow(of_address=3).served() as page:
        assert [page.ask("a", f"visitor {i}").status_code for i in range(3)] == [200] * 3
        refused = page.ask("a", "visitor 3")
        assert refused.status_code == 429
        assert (
            "3 requests from your network address are waiting already" in refused.json()["detail"]
        )
    with Slow().served() as page:
        page.ask("a", "first")
        page.until(lambda: page.order)
        assert [page.ask("a", f"visitor {i}").status_code for i in range(7)] == [200] * 6 + [429]
    with Slow(megabytes=0.002).served() as page:
        page.ask("a", "first")
        page.until(lambda: page.order)
        codes = [page.ask("x" * 900, f"visitor {i}").status_code for i in range(3)]
        assert codes[0] == 200
        assert codes[-1] == 429


@pytest.mark.slow
def test_answers_that_nobody_fetches_are_thrown_away_with_the_work_on_them():
    with Slow(unread=0.1).served() as page:
        page.ask("never fetched", "gone")
        page.ask("never begun", "gone")
        page.until(lambda: page.order)
        time.sleep(0.15)
        page.ask("b", "other")
        queue = page.page._queue
        assert "gone" not in queue.pending_messages_per_session
        assert "gone" not in queue.pending_event_ids_session
        page.goes_on.set()
        page.until(lambda: "b" in page.order)
        assert page.order == ["never fetched", "b"]


@pytest.mark.slow
def test_who_listens_is_answered_however_long_it_takes():
    with Slow(unread=0.1).served() as page:
        event = page.ask("a").json()["event_id"]
        found = []
        listener = threading.Thread(
            target=lambda: found.append(page.client.get(f"/gradio_api/call/work/{event}").text)
        )
        listener.start()
        page.until(lambda: page.order)
        assert page.ask("b", "other").status_code == 200  # who looks after the others
        page.goes_on.set()
        listener.join(10)
        assert "event: complete" in found[0]
        assert "aaaa" in found[0]


@pytest.mark.slow
def test_a_program_without_a_session_leaves_nothing():
    with Slow().served() as page:
        page.goes_on.set()
        for i in range(3):
            event = page.ask(f"{i}").json()["event_id"]
            assert "complete" in page.client.get(f"/gradio_api/call/work/{event}").text
        page.until(lambda: not page.page.state_holder.session_data)
        assert len(page.visitors) == 0


@pytest.mark.slow
def test_closing_the_page_frees_what_it_held():
    with Slow().served(closed=0.1) as page:
        page.goes_on.set()
        with page.client.stream("GET", "/gradio_api/heartbeat/mine") as beat:
            next(beating := beat.iter_raw())  # kept, since what is not kept is closed
            page.ask("a", "mine")
            page.until(lambda: page.order)
            held = weakref.ref(
                next(
                    v
                    for v in page.page.state_holder["mine"].state_data.values()
                    if isinstance(v, Room)
                ).own
            )
            time.sleep(0.3)
            page.visitors.sweep()
            assert held() is not None
            assert "mine" in page.page.state_holder.session_data
        del beating
        page.until(lambda: not page.visitors._known["mine"].open)
        time.sleep(0.15)
        page.visitors.sweep()
        assert "mine" not in page.page.state_holder.session_data
        gc.collect()
        assert held() is None


# --- what is kept, and for how long something is worked on


def test_a_triangle_does_not_fill_the_memory_either(monkeypatch):
    from copra_lab.page.state import session as w

    monkeypatch.setattr(w, "ALL_MEASUREMENTS", 40)
    here = triangle_state("colours", ("0/one", "0/two", "base"), *MIDDLE)
    history = walked(here).history
    for b in range(100):
        history = history.add(replace(here, b=b), history.here)
    assert len(history.points) == 40
    assert {here, *here.references} <= set(history.points)


@pytest.mark.slow
def test_games_are_a_few_and_those_of_visitors_who_left_go(monkeypatch):
    monkeypatch.setattr(so, "GAMES", 2)
    so._games.clear()
    own = Own(
        "colours", 1, replace(LAB.adapter("colours", "0/one"), provenance={"method": "lora"}), 5
    )
    mine = so.solving(LAB, "colours", own.key)
    assert so.solving(LAB, "colours", own.key) is mine
    for key in ("0/one", "0/two"):
        so.solving(LAB, "colours", key)
    assert [k[2] for k in so._games] == ["0/one", "0/two"]
    so.solving(LAB, "colours", own.key)
    del own
    gc.collect()
    so.solving(LAB, "colours", "0/one")
    assert [k[2] for k in so._games] == ["0/two", "0/one"] or [k[2] for k in so._games] == ["0/one"]
    so._games.clear()


def test_a_game_is_not_worked_on_for_ever(monkeypatch):
    monkeypatch.setattr(so, "WATCHED_SECONDS", 0.0)
    game = Solving(TINY, LAB.adapter("colours", "0/one"))
    assert list(sharpened(game, lambda: True)) == []
    assert not game.done


def test_a_zip_is_not_worked_on_for_ever(monkeypatch, tmp_path):
    import io
    import zipfile

    from PIL import Image

    monkeypatch.setattr(uploaded_task, "WATCHED_SECONDS", 0.0)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as z:
        for name in ("red thing", "blue thing"):
            Image.new("RGB", (32, 32), name.split()[0]).save(data := io.BytesIO(), "PNG")
            z.writestr(f"{name}/1.png", data.getvalue())
    last = list(uploaded_task.classified(LAB, str(tmp_path / "mine.zip")))[-1]
    shown, table = last["result"], last["table"]
    assert shown.count("was not run: your zip took too long") == len(LAB.adapters("colours"))
    assert "No adapter" in table


@pytest.mark.slow
def test_a_visitor_who_did_everything_fits_into_the_memory_that_is_promised():
    lab, largest = Lab(), 1000
    clip = load_clip()
    page, right = asyncio.run(_built(lab)), TINY.accuracy()
    adapters = [random_adapter(clip, rank=8, seed=i, towers=("vision",)) for i in range(limits.OWN)]
    n = 5
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = []
        for _ in range(n):
            session = Session()
            here = triangle_state("digits", ("0/a", "0/b", "0/c"))
            points = {
                replace(here, b=i % 120, c=i // 120): Point(
                    torch.zeros(largest, dtype=torch.int16), right
                )
                for i in range(limits.ALL_MEASUREMENTS)
            }
            session.change(
                lambda history, points=points, here=here: replace(
                    history, state=here, points=points
                )
            )
            own = [
                Own("digits", i, replace(a, provenance={"method": "lora"}), 5)
                for i, a in enumerate(adapters)
            ]
            session.change(lambda history, own=own: history.keep(*own))
            held.append((session, SessionState(page)))
        traced = (tracemalloc.get_traced_memory()[0] - before) / n / 1e6
    finally:
        tracemalloc.stop()
    tensors = (
        limits.ALL_MEASUREMENTS * 2 * largest / 1e6 + sum(a.parameters for a in adapters) * 4 / 1e6
    )  # which tracemalloc does not see
    assert max(len(lab.bench(task)) for task in ("digits",)) <= largest
    assert traced + tensors < limits.VISITOR_MB, (traced, tensors)


async def _built(lab):
    return build(lab)
