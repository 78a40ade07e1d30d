"""A task from a Hugging Face data set: a ``datasets.Dataset``, or a ``DatasetDict`` with its splits.

The library ``datasets`` is not needed here, only what its objects answer to: ``features``, columns by name, rows by number.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from copra_lab.tasks.decoding import Readable
from copra_lab.tasks.emoji.selection import Entry
from copra_lab.tasks.listing import JUDGE, Listing, check_template, parted
from copra_lab.tasks.splits import PARTS, part_of

__all__ = ["listing"]


def is_dataset(data: object) -> bool:
    """Whether `data` answers to what is asked of a data set, or is a mapping of splits that do."""
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
    """The rows of `data`, for `tasks.load_task`. `image` and `label` name its columns: where they are not given, the only
    one of images, and the only one of classes or else the one called "label". Rows without a label are left out.

    The data set's own splits are used, its validation part to test on where it has no other; of a single split half of the
    rows train, a fifth validates and three tenths test, by number.

    Raises ValueError, in one sentence, for columns that cannot be told, labels without names, splits of unknown names, and a stream.
    """
    splits = _splits(data)
    some = next(iter(splits.values()))
    if not hasattr(some, "__len__") or some.features is None:
        raise ValueError(
            "a streamed data set has no rows to choose shots from: load it without streaming=True"
        )
    image = image or _column(
        some, "image", [c for c, f in some.features.items() if type(f).__name__ == "Image"]
    )
    label = label or _column(
        some,
        "label",
        [c for c, f in some.features.items() if getattr(f, "names", None)] or ["label"],
    )
    if missing := [
        f"{part}: {c}"
        for part, s in splits.items()
        for c in (image, label)
        if c not in s.column_names
    ]:
        raise ValueError(
            f"there is no column {missing[0].partition(': ')[2]!r}: choose one of {', '.join(some.column_names)}"
        )
    names = getattr(some.features[label], "names", None)
    rows = [
        (part, row, value) for part, s in splits.items() for row, value in enumerate(list(s[label]))
    ]
    rows = [
        (part, row, value) for part, row, value in rows if value is not None and value != -1
    ]  # as the hub writes "not told"
    if not names and any(not isinstance(value, str) for _, _, value in rows):
        raise ValueError(
            f"column {label!r} holds numbers without names: cast it, data.cast_column({label!r}, ClassLabel(names=[…]))"
        )
    classes = list(names or sorted({value for _, _, value in rows}))
    becomes = {part: part for part, _, _ in rows}
    if len(becomes) == 1:
        becomes, origin = (
            dict.fromkeys(becomes, ""),
            "Of its rows half train, a fifth validates, three tenths test.",
        )
    elif "test" in becomes:
        origin = "The data set's own split."
    else:
        becomes["val"], origin = "test", "Its validation part is the test."
    entries = [
        Entry(f"{part}:{row}", classes[value] if names else value, f"{part}:{row}", becomes[part])
        for part, row, value in rows
    ]
    raw = {part: _undecoded(s, image) for part, s in splits.items()}

    def open_(source: str) -> Readable:
        part, _, row = source.partition(":")
        value = raw[part][int(row)][image]
        if (
            isinstance(value, Mapping)
            and not value.get("bytes")
            and "://" in str(value.get("path"))
        ):
            value = splits[part][int(row)][
                image
            ]  # in an archive, say, where only the library finds it
        return _picture(value, image)

    words = check_template(template)
    about = f"{len(classes)} classes of a Hugging Face data set. {origin} The prompt is “{words}”. {JUDGE}"
    own = name or getattr(getattr(some, "info", None), "dataset_name", None) or "dataset"
    return Listing(
        own,
        own,
        about,
        {c: c.replace("_", " ") for c in classes},
        words,
        parted(entries),
        open_,
        lenient=True,
    )


def with_template(found: Listing, template: str) -> Listing:
    """The same with another prompt."""
    about = found.about.replace(
        f"The prompt is “{found.template}”.", f"The prompt is “{check_template(template)}”."
    )
    return replace(found, template=template, about=about)


def _splits(data: Any) -> dict[str, Any]:
    """Splits by our names of the parts."""
    if not isinstance(data, Mapping):
        return {"train": data}
    if len(data) == 1:
        return {"train": next(iter(data.values()))}
    named = {name: part for name in data if (part := part_of(str(name)))}
    if twice := [name for name, part in named.items() if list(named.values()).count(part) > 1]:
        raise ValueError(
            f"the splits {', '.join(map(str, twice))} are called like the same part: leave one out, or put them together"
        )
    found = {part: data[name] for name, part in named.items()}
    if "train" not in found or len(found) < 2:
        raise ValueError(
            f"the splits {', '.join(map(str, data))} hold no 'train' with a 'test' or 'validation': rename them, or give one alone"
        )
    return {part: found[part] for part in PARTS if part in found}


def _column(split: Any, what: str, candidates: list[str]) -> str:
    chosen = what if what in candidates else candidates[0] if len(candidates) == 1 else None
    if chosen is None:
        of = candidates or list(split.column_names)
        raise ValueError(
            f"which column is the {what}? Call load_task(hf_datasets.listing(data, {what}=…)) with one of {', '.join(of)}"
        )
    return chosen


def _undecoded(split: Any, column: str) -> Any:
    """The split with its files as they are: the library would forget, of some, how many bits they have. One with a format or transform of
    the user's stays as it is."""
    feature = split.features[column]
    if (
        getattr(feature, "decode", False)
        and hasattr(split, "cast_column")
        and split.format["type"] is None
    ):
        return split.cast_column(column, type(feature)(decode=False))
    return split


def _picture(value: Any, column: str) -> Readable:
    """A picture as the library gives it, decoded or not."""
    if isinstance(value, Mapping):
        value = io.BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
    value = (
        io.BytesIO() if value is None else value
    )  # a row without a picture is passed over like one that cannot be read
    if not (isinstance(value, str | io.BytesIO) or hasattr(value, "convert")):
        raise ValueError(
            f"column {column!r} gives {type(value).__name__}, not images: undo its format, data.with_format(None), or name another"
        )
    return value
