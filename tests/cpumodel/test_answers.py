"""Whatever a binary answers: what it really said, with something else in some place of it."""

from __future__ import annotations

import asyncio
import copy
import functools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpumodel.binary import asked, find_binary
from kvmaff.cpumodel.reading import _read_all
from kvmaff.cpumodel.stored import models_data, models_from
from kvmaff.errors import KvmaffError

from ..conftest import needs_qemu

FEW = ("qemu64", "qemu64-v1", "kvm64", "max", "EPYC-v2")
JUNK = hs.one_of(
    hs.none(),
    hs.booleans(),
    hs.integers(),
    hs.floats(),
    hs.sampled_from(["", "\x1b[2J", "x" * 5000, "qemu64", "\udcff"]),
    hs.sampled_from([[], {}, [[]], {"props": []}, [None] * 5000]),
)
Said = dict[str, Any]


class Recorded:
    """Stands for a conversation: says what was said, by what was asked."""

    owner = "qemu"
    pid = 1

    def __init__(self, said: Said) -> None:
        self.said = said

    async def ask(self, command: str, **arguments: object) -> object:
        """Say it again."""
        return self.said[f"{command} {json.dumps(arguments, sort_keys=True)}"]


@functools.cache
def recording() -> Said:
    """What the real one says when a few models are read."""
    said: Said = {}

    async def whole() -> None:
        async with asked(find_binary(), accel="tcg") as qemu:

            class Recorder(Recorded):
                async def ask(self, command: str, **arguments: object) -> object:
                    answer = await qemu.ask(command, **arguments)
                    if command == "query-cpu-definitions":
                        assert isinstance(answer, list)
                        answer = [one for one in answer if one["name"] in FEW]
                    self.said[f"{command} {json.dumps(arguments, sort_keys=True)}"] = answer
                    return answer

            await _read_all(Recorder(said), "qemu", "tcg", "none")  # type: ignore[arg-type]

    asyncio.run(whole())
    return said


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in an answer."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@needs_qemu
@given(data=hs.data())
def test_whatever_it_answers(data: hs.DataObject) -> None:
    """Models that are whole and can be kept, or an error that says what is wrong and no terminal obeys."""
    said = copy.deepcopy(recording())
    for _ in range(data.draw(hs.integers(1, 3))):
        key = data.draw(hs.sampled_from(sorted(said)))
        path = data.draw(hs.sampled_from(places(said[key])))
        junk = copy.deepcopy(data.draw(JUNK))  # the next junk may be put into it
        if not path:
            said[key] = junk
            continue
        inner = said[key]
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = junk
    try:
        models = asyncio.run(_read_all(Recorded(said), "qemu", "tcg", "none"))  # type: ignore[arg-type]
    except KvmaffError as error:
        assert str(error).isprintable()
    except KeyError:
        pass  # another model was asked for, of which nothing is recorded
    else:
        assert models == models_from(json.loads(json.dumps(models_data(models))))
