"""What a visitor of the page can cost at most: every limit in one place, with a sentence for each.

A *visitor* is one open page, or one client of the API: a session, as Gradio calls it. An *address*
is the network address that requests come from, which a class behind one router shares. No address
alone fills anything: a quarter of each place that all share stays for others. SECURITY.md shows
`table`, and a test holds the two together.
"""

from copra_lab.tasks.decoding import MEGAPIXELS, MEMORY
from copra_lab.tasks.zip_upload import ALL_MEGAPIXELS, CLASSES, IMAGES, MEGABYTES, UNPACKED

# --- requests

REQUEST_MB = 14
"""Megabytes of one request; a picture of 10 MB has 13.4 in base64."""

REQUEST_SECONDS = 120
"""Seconds that a request may take to arrive."""

CONNECTIONS, ADDRESS_CONNECTIONS = 800, 600
"""Requests that are being answered at once; an open page holds two, and up to six while it loads.
"""

WAITING, ADDRESS_WAITING, QUEUE = 16, 96, 128
"""Questions to the model that wait or are being answered: of one visitor, of one address, and that
wait in all."""

WAITING_MB = 60
"""Megabytes of all that wait together."""

UNREAD_SECONDS = 60
"""Seconds after which answers that nobody fetches are thrown away, and what is still being computed
for them is stopped."""

# --- what is kept

SESSIONS, ADDRESS_SESSIONS = 200, 150
"""Visitors that are remembered at once."""

CLOSED_SECONDS = 600
"""Seconds for which a visitor is remembered after the page was closed: long enough to come back
after a lost connection."""

IDLE_SECONDS = 60
"""The same for a client of the API that never said that it is still there."""

MEASUREMENTS, ALL_MEASUREMENTS = 500, 1000
"""Measurements that a visitor finds again on coming back; and with those of the line or triangle at
hand."""

OWN = 8
"""Trained adapters that a visitor keeps: the last ones."""

GAMES = 32
"""Layer games whose values are remembered, of all visitors together."""

# --- uploads

UPLOAD_MB = MEGABYTES
"""Megabytes of one uploaded file."""

ADDRESS_UPLOADS_MB, UPLOADS_MB = 300, 1000
"""Megabytes that are uploaded within an hour."""

FILE_SECONDS, FILE_LOOKS = 3600, 600
"""Age at which an uploaded file is deleted, and seconds between two looks for such files."""

# --- time

TRAINING_SECONDS = 180.0
"""Seconds after which a training ends by itself, from its first step on."""

MOST_WAITING, ADDRESS_TRAININGS = 8, 6
"""Visitors who train or wait for it at the same time. One trains at a time, and each visitor has
one place in the line."""

WATCHED_SECONDS = 180.0
"""Seconds that the page works on one layer game or one zip without being asked again."""

ASKED_SECONDS = 60
"""Seconds for which a program can have layers valued in one call."""

# --- memory

VISITOR_MB, TEN_MB = 10, 1500
"""Megabytes that the server keeps for a visitor who did all that the page offers, and by which it
grows while ten such visitors are at work at once: what `benchmarks/strangers.py` measures, rounded
up."""


def table() -> str:
    """The limits in a table of Markdown."""
    rows = {
        "one request": f"{REQUEST_MB} MB, which must arrive within {REQUEST_SECONDS} seconds",
        "connections at once": f"{CONNECTIONS}, of which {ADDRESS_CONNECTIONS} from one address",
        "questions to the model that wait": f"{WAITING} of one visitor, {ADDRESS_WAITING} of one "
        f"address, {QUEUE} and {WAITING_MB} MB in all",
        "answers that nobody fetches": f"thrown away after {UNREAD_SECONDS} seconds, and the work "
        "on them is stopped",
        "one picture": f"{UPLOAD_MB} MB, and {MEMORY / 1e6:.0f} MB of memory to decode it, which "
        f"{MEGAPIXELS} megapixels never exceed",
        "one zip": f"{MEGABYTES} MB, {UNPACKED} MB unpacked, {IMAGES} images, {CLASSES} classes, "
        f"{ALL_MEGAPIXELS} megapixels together",
        "uploads in an hour": f"{ADDRESS_UPLOADS_MB} MB of one address, {UPLOADS_MB} MB in all",
        "uploaded files": f"deleted when they are {FILE_SECONDS // 60} minutes old (looked for "
        f"every {FILE_LOOKS // 60} minutes)",
        "trainings": f"one at a time, one place in the line for each visitor, {ADDRESS_TRAININGS} "
        f"for one address, {MOST_WAITING} in all; each ends after {TRAINING_SECONDS:.0f} seconds",
        "one layer game or one zip": f"{WATCHED_SECONDS:.0f} seconds; {ASKED_SECONDS} seconds for "
        "a program",
        "kept of a visitor": f"{OWN} trained adapters and {ALL_MEASUREMENTS:,} measurements",
        "kept of all visitors": f"{SESSIONS} visitors, {ADDRESS_SESSIONS} of one address, and the "
        f"values of {GAMES} layer games",
        "after a page is closed": "all that was kept is dropped within "
        f"{CLOSED_SECONDS // 60} minutes; of a program without an open page within "
        f"{IDLE_SECONDS} seconds",
        "memory": f"{VISITOR_MB} MB for each visitor who is remembered; {TEN_MB:,} MB more while "
        "ten of them do all that they can at once",
    }
    lines = [f"| {what} | {most} |" for what, most in rows.items()]
    return "\n".join(["| What | At most |", "|---|---|", *lines])
