"""Drawings, as one short name."""

import hashlib

from copra_lab.tasks.emoji import drawings


def digest(d: drawings.Drawings) -> str:
    return hashlib.sha256(
        "\n".join((d.style, *d.keys, *d.names)).encode() + d.rgba.tobytes()
    ).hexdigest()
