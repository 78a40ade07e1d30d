"""How Gradio runs the handlers of an event: how many of a kind at once, and which share a limit."""

from typing import Any

from copra_lab.page.server.limits import MOST_WAITING

NUMBERED = "(...x) => { x[x.length - 1] = performance.now(); return x; }"
"""Numbers a request as it leaves; see `Requests.take`."""

EVENT: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "api_visibility": "private",
    "preprocess": False,
}
"""What controls send is checked by the handlers, in words: a Gradio error would also lose the
request that waits behind it. Only files are read by Gradio (`READ`)."""

READ = {"preprocess": True}
"""For handlers of uploads, which get the path of Gradio's own copy and nothing else."""


def _sharing(name: str, places: int) -> dict[str, Any]:
    return EVENT | {"concurrency_limit": places, "concurrency_id": name}


MODEL = _sharing("bench", 2)
"""Everything that runs the model shares one small limit."""

PICTURES = _sharing("pictures", 1)
"""What reads a visitor's picture: one at a time, since a large one takes half a gigabyte, and
apart, since nobody's number shall wait for that."""

PROGRAMS = _sharing("programs", 1)
"""What programs ask: one at a time, and apart, so that no visitor waits for a program that asks in
a loop."""

REST = _sharing("rest", 2)
"""Apart, so that no first number waits in the queue behind all images of others."""

WATCHING = _sharing("watching", 8) | {"trigger_mode": "multiple"}
"""What sharpens for half a minute: apart, so that whoever wants a number does not wait for it, and
several at once, since another question of the same visitor's must not wait until this one has ended
by itself."""

BACKGROUND = _sharing("background", 1)
"""What takes minutes, or nobody waits for: one at a time."""

TRAINING = _sharing("training", MOST_WAITING + 4) | {"trigger_mode": "once"}
"""Trainings: each that goes on or waits keeps a thread of Gradio's until it is over, so there are
as many places as the line has, and a few for those who are told that it is full."""
