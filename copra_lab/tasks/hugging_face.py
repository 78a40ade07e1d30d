"""Tasks from Hugging Face data sets: a ``datasets.Dataset``, or a ``DatasetDict`` with its splits.

The library ``datasets`` itself is not needed, only the interface of its objects: ``features``,
columns by name, rows by number.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from copra_lab.tasks.decoding import Readable
from copra_lab.tasks.emoji.selection import Entry
from copra_lab.tasks.listing import JUDGE, Listing, check_template, parted
from copra_lab.tasks.splits import PARTS, part_of

__all__ = ["listing"]


def is_dataset(data: object) -> bool:
    """Whether `data` has a data set's interface, or is a mapping of splits that have it."""
    splits = list(data.values()) if isinstance(data, Mapping) else [data]
    return bool(splits) and all(
        hasattr(s, "features") and hasattr(s, "column_names") for s in splits
    )


def listing(
    data: Any,
    *,
    image: str | None = None,
    label: str | None = None,
    name: str | None = None,
    template: str | None = None,
) -> Listing:
    """List the rows of a data set, for `load_task`. Rows without a label are left out.

    The data set's own splits are used; its validation part tests if there is no other. Of a single
    split, half of the rows train, a fifth validate and three tenths test, by row number.

    Args:
        data: The data set, or a mapping of splits.
        image: The image column; None is the only one of images.
        label: The label column; None is the only one of classes, or else "label".
        name: The task's name; None is the data set's.
        template: The prompt with {} for the class name; None is "a photo of a {}".

    Raises:
        ValueError: The columns are ambiguous, labels have no names, splits have unknown names, or
            the data set is streamed.
    """
    splits = _splits(data)
    some = next(iter(splits.values()))
    if not hasattr(some, "__len__") or some.features is None:
        raise ValueError(
            "a streamed data set has no rows by number: load it without streaming=True"
        )
    images = [c for c, f in some.features.items() if type(f).__name__ == "Image"]
    named = [c for c, f in some.features.items() if getattr(f, "names", None)]
    image = image or _column(some, "image", images)
    label = label or _column(some, "label", named or ["label"])
    for split in splits.values():
        for column in (image, label):
            if column not in split.column_names:
                raise ValueError(
                    f"there is no column {column!r}: choose one of {', '.join(some.column_names)}"
                )
    classes, entries, origin = _entries(splits, label, getattr(some.features[label], "names", None))
    prompt = check_template(template)
    title = name or getattr(getattr(some, "info", None), "dataset_name", None) or "dataset"
    kind = f"{len(classes)} classes of a Hugging Face data set."
    about = f"{kind} {origin} The prompt is “{prompt}”. {JUDGE}"
    names, open_ = {c: c.replace("_", " ") for c in classes}, _opener(splits, image)
    return Listing(title, title, about, names, prompt, parted(entries), open_, lenient=True)


def with_template(found: Listing, template: str) -> Listing:
    """The listing with another prompt."""
    old, new = (f"The prompt is “{t}”." for t in (found.template, check_template(template)))
    return replace(found, template=template, about=found.about.replace(old, new))


def _splits(data: Any) -> dict[str, Any]:
    """Splits by our names of the parts."""
    if not isinstance(data, Mapping):
        return {"train": data}
    if len(data) == 1:
        return {"train": next(iter(data.values()))}
    named = {name: part for name in data if (part := part_of(str(name)))}
    if twice := [name for name, part in named.items() if list(named.values()).count(part) > 1]:
        both = ", ".join(map(str, twice))
        raise ValueError(f"the splits {both} are named like the same part: leave one out")
    found = {part: data[name] for name, part in named.items()}
    if "train" not in found or len(found) < 2:
        raise ValueError(
            f"the splits {', '.join(map(str, data))} have no 'train' with a 'test' or "
            "'validation': rename them, or pass a single one"
        )
    return {part: found[part] for part in PARTS if part in found}


def _column(split: Any, what: str, candidates: list[str]) -> str:
    if what in candidates:
        return what
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(candidates or split.column_names)
    raise ValueError(
        f"which column is the {what}? Call load_task(copra_lab.tasks.hugging_face.listing(data, "
        f"{what}=…)) with one of {columns}"
    )


def _entries(
    splits: Mapping[str, Any], label: str, names: list[str] | None
) -> tuple[list[str], list[Entry], str]:
    """The classes, the rows, and a sentence on the split."""
    rows = [(part, i, y) for part, s in splits.items() for i, y in enumerate(list(s[label]))]
    rows = [(part, i, y) for part, i, y in rows if y is not None and y != -1]  # -1: hidden labels
    if not names and any(not isinstance(y, str) for _, _, y in rows):
        cast = f"data.cast_column({label!r}, ClassLabel(names=[…]))"
        raise ValueError(f"column {label!r} has numbers without names: cast it, {cast}")
    classes = list(names or sorted({y for _, _, y in rows}))
    becomes = {part: part for part, _, _ in rows}
    origin = "The data set's own split."
    if len(becomes) == 1:
        becomes = dict.fromkeys(becomes, "")
        origin = "Of its rows half train, a fifth validates, three tenths test."
    elif "test" not in becomes:
        becomes["val"], origin = "test", "Its validation part is the test."
    entries = []
    for part, i, y in rows:
        source = f"{part}:{i}"
        entries.append(Entry(source, classes[y] if names else y, source, becomes[part]))
    return classes, entries, origin


def _opener(splits: Mapping[str, Any], image: str) -> Callable[[str], Readable]:
    raw = {part: _undecoded(s, image) for part, s in splits.items()}

    def open_(source: str) -> Readable:
        part, _, row = source.partition(":")
        value = raw[part][int(row)][image]
        remote = isinstance(value, Mapping) and "://" in str(value.get("path"))
        if remote and not value.get("bytes"):  # in an archive, where only the library finds it
            value = splits[part][int(row)][image]
        return _picture(value, image)

    return open_


def _undecoded(split: Any, column: str) -> Any:
    """The split with its image files not decoded, unless the user set a format or transform.

    When it decodes, the library forgets how many bits some images have.
    """
    feature = split.features[column]
    decodes = getattr(feature, "decode", False) and hasattr(split, "cast_column")
    if decodes and split.format["type"] is None:
        return split.cast_column(column, type(feature)(decode=False))
    return split


def _picture(value: Any, column: str) -> Readable:
    """An image as the library gives it, decoded or not."""
    if isinstance(value, Mapping):
        value = io.BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
    if value is None:
        value = io.BytesIO()  # a row without an image is skipped like an unreadable one
    if not (isinstance(value, str | io.BytesIO) or hasattr(value, "convert")):
        kind = f"{type(value).__name__}, not images"
        raise ValueError(
            f"column {column!r} gives {kind}: reset its format with data.with_format(None)"
        )
    return value
