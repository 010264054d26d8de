"""Specs written as TOML are read again, all of them."""

from __future__ import annotations

import attrs
from hypothesis import given

from kvmaff.formats.specs import parse_specs
from kvmaff.formats.spectoml import spec_toml
from kvmaff.guest.spec import GuestSpec
from kvmaff.testing.inputs_guests import guest_specs


@given(guest_specs())
def test_a_spec_is_read_back(spec: GuestSpec) -> None:
    """Every field."""
    (entry,) = parse_specs(spec_toml(spec), "them")
    read = GuestSpec(name=entry.name or "", uuid=entry.uuid, **entry.given())
    assert attrs.asdict(spec) == attrs.asdict(read)
