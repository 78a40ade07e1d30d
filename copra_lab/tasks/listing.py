"""What a data set contains, listed before any of its images is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from copra_lab.tasks.decoding import Readable
from copra_lab.tasks.emoji import selection as so

TEMPLATE = "a photo of a {}"
"""The prompt for images that come without one."""

TEST_SHARE, VAL_SHARE = 0.3, 0.2
"""Shares of a data set without its own split, as in CoOp (arXiv:2109.01134).

Training images without validation images give up `VAL_SHARE` as well.
"""

LEFT_BEHIND = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")
"""What operating systems leave in folders. Ignored, like every name that begins with a dot."""

JUDGE = "Whether pretraining knew such things is for you to judge."


@dataclass(frozen=True)
class Listing:
    """The images of a data set, their classes and their parts.

    Attributes:
        name: The task's name.
        title: The task's title, for a menu.
        about: What the task asks, in a few sentences.
        classes: Each label, in order, with its name in a prompt.
        template: The prompt, with {} for the class name.
        entries: The images, each with a label and a part.
        open: Gives the image of an entry's source.
        passed: (name, reason) of each file that was skipped.
        lenient: Whether to skip unreadable images instead of raising an error.
        options: What `load_task` needs, besides the name, to list the same again.
        group: The task's group, see `Task`.
    """

    name: str
    title: str
    about: str
    classes: Mapping[str, str]
    template: str
    entries: Sequence[so.Entry]
    open: Callable[[str], Readable]
    passed: Sequence[tuple[str, str]] = ()
    lenient: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


def parted(entries: Sequence[so.Entry]) -> list[so.Entry]:
    """Give each entry its part, the same on every machine.

    If no entry has a part, half of each label's groups train, a fifth validate and three tenths
    test, decided by hashing the groups' names. If none validates, a fifth of each label's training
    groups does, by the same hash. A group with several labels is in one part only: the test part
    if any of its entries is, or else the validation part.
    """
    entries = list(entries)
    if not any(e.part for e in entries):
        entries = so.dealt(entries, TEST_SHARE, VAL_SHARE)
    if not any(e.part == "val" for e in entries):
        val: dict[str, list[str]] = {}
        train = so.groups_by_label(e for e in entries if e.part == "train")
        for label, groups in train.items():
            fifth = round(VAL_SHARE * len(groups)) or int(len(groups) > 1)
            val[label] = sorted(groups, key=so.rank)[:fifth]
        entries = [
            replace(e, part="val") if e.part == "train" and e.group in val[e.label] else e
            for e in entries
        ]
    part = so.part_of_groups(entries)
    return [replace(e, part=part[e.group]) for e in entries]


def check_template(template: str | None) -> str:
    """Check a prompt template.

    Args:
        template: The template, or None for the default.

    Returns:
        The template to use.

    Raises:
        ValueError: It is not a string that contains {} exactly once.
    """
    if template is None:
        return TEMPLATE
    valid = isinstance(template, str) and template.count("{}") == 1
    if not valid or set("{}") & set(template.replace("{}", "")):
        raise ValueError(
            f"a template must contain {{}} once, where the class name goes, such as {TEMPLATE!r}; "
            f"got {template!r}"
        )
    return template
