"""Threads and masks in packed arrays, against the values that they were packed from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.kernel.native import ffi
from kvmaff.kernel.tasks import Masks, Task, Tasks
from kvmaff.kernel.text import printable
from kvmaff.testing import inputs as st

ROW = ffi.sizeof("struct ps_task")

numbers = hs.integers(1, 2**31 - 1)
rows_of_threads = hs.lists(
    hs.fixed_dictionaries(
        {
            "ino": hs.integers(0, 2**64 - 1),
            "start": hs.integers(0, 2**64 - 1),
            "since": hs.integers(0, 2**64 - 1),
            "flags": hs.integers(0, 2**32 - 1),
            "pid": numbers,
            "tid": numbers,
            "cpu": hs.integers(-1, 2**31 - 1),
            "err": hs.integers(-4095, 0),
            "mask_err": hs.sampled_from([0, 0, -1, -3]),
            "told": hs.integers(0, 1),
            "settled": hs.integers(0, 1),
            "state": hs.integers(0, 127),
            "comm": hs.binary(max_size=68).filter(lambda name: 0 not in name),
        }
    ),
    max_size=12,
)


def packed(rows: list[dict[str, Any]], **more: Any) -> Tasks:
    """Rows as a sweep fills them in, what no sweep writes filled with what nobody expects."""
    array = ffi.new("struct ps_task[]", len(rows) + 1)
    ffi.buffer(array)[:] = b"\xa5" * len(ffi.buffer(array))
    for item, row in zip(array, rows, strict=False):
        for name, value in row.items():
            if name == "comm":
                item.comm_len = len(value)
                ffi.buffer(item.comm)[: len(value)] = value
            else:
                setattr(item, name, value)
    return Tasks(array, len(rows), 77, errors={}, counts={}, **more)


@given(rows_of_threads)
def test_rows_are_what_was_written(rows: list[dict[str, Any]]) -> None:
    """Values, columns and raw names tell the same, by index, by slice and one after the other."""
    tasks = packed(rows)
    expected = [
        Task(
            pid=row["pid"],
            tid=row["tid"],
            ino=row["ino"],
            start=row["start"],
            name=printable(row["comm"]),
            flags=row["flags"],
            state=chr(row["state"]) if row["state"] else "",
            cpu=row["cpu"] if row["cpu"] >= 0 else None,
            error=-row["err"],
        )
        for row in rows
    ]
    assert len(rows) == len(tasks)
    assert expected == list(tasks) == tasks[:] == [tasks[i] for i in range(len(rows))]
    assert expected[::-2] == tasks[::-2]
    assert expected[1:3] == tasks[1:3]
    assert [row["tid"] for row in rows] == tasks.tids()
    assert [row["comm"] for row in rows] == tasks.names()
    for place in range(len(rows)):
        assert expected[place] == tasks[place - len(rows)]
        assert tasks.raw(place, 1) == tasks.raw(0, len(rows))[place * ROW : (place + 1) * ROW]
    for place in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            tasks[place]
    with pytest.raises(ValueError, match="not read"):
        _ = tasks.masks


@given(rows_of_threads, hs.data())
def test_masks_are_what_was_written(rows: list[dict[str, Any]], data: hs.DataObject) -> None:
    """Masks of any width, far beyond 1,024 CPUs too, are told as they are, and None where there was an error."""
    words = data.draw(hs.sampled_from([1, 4, 16, 17, 32, 128]))
    sets = data.draw(hs.lists(st.cpu_sets(64 * words), min_size=len(rows), max_size=len(rows)))
    raw = b"".join(one.to_words(words) for one in sets)
    masks = packed(rows, masks=ffi.new("uint64_t[]", len(rows) * words or 1), words=words).masks
    ffi.buffer(masks.raw)[: len(raw)] = raw
    expected = [None if row["mask_err"] else one for row, one in zip(rows, sets, strict=True)]
    assert expected == list(masks) == masks[:]
    assert expected[::-1] == masks[::-1]
    assert expected[-1:] == masks[-1:]
    for place, one in enumerate(sets):
        assert one.to_words(words) == masks.words_of(place)
    assert raw == masks.raw_of(0, len(rows))
    assert raw[8 * words :] == masks.raw_of(1, len(rows) - 1 if rows else 0)
    with pytest.raises(IndexError):
        masks[len(rows)]


def test_beyond_the_1024th_cpu() -> None:
    """CPU 1,024 and later ones are in a mask that is wide enough."""
    array = ffi.new("uint64_t[]", 2 * 128)
    array[16], array[127], array[128 + 17] = 1, 1 << 63, 3
    masks = Masks(array, 128, 2, [0, 0])
    assert [CpuSet([1024, 8191]), CpuSet([1088, 1089])] == list(masks)


@pytest.mark.parametrize(
    ("state", "err", "alive"), [("S", 0, True), ("", 0, True), ("Z", 0, False), ("R", -3, False)]
)
def test_alive(state: str, err: int, alive: bool) -> None:
    """Alive is what could be read and has not ended."""
    row = {"pid": 1, "tid": 1, "cpu": -1, "err": err, "state": ord(state) if state else 0, "comm": b""}
    (task,) = packed([row])
    assert alive is task.alive
