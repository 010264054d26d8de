"""What QEMU makes of ``-smp`` -> what JSON can hold; the shape is a contract, as in :mod:`kvmaff.formats.plain`."""

from __future__ import annotations

from typing import Any

import attrs

from kvmaff.guest.smp import SmpReading

__all__ = ["smp_data"]


def smp_data(reading: SmpReading | None) -> dict[str, Any]:
    """
    Describe a reading.

    Args:
        reading: It; None where there is none.

    Returns:
        ``machine, qemu`` (major and minor, a list), ``levels`` (those that the machine has, the largest first), ``smp``
        (all numbers by word, of levels that the machine lacks 1), ``given`` (the numbers that the text has), ``why`` (a
        sentence by word), ``text`` (the same with everything said), ``warnings`` and ``vcpus``, a list: of each
        ``vcpu, plugged``, its number at every level of the machine, and ``apic_id``, null where there is none.
    """
    if reading is None:
        return {
            "machine": None,
            "qemu": None,
            "levels": [],
            "smp": None,
            "given": {},
            "why": {},
            "text": None,
            "warnings": [],
            "vcpus": [],
        }
    topology, rules = reading.topology, reading.rules
    return {
        "machine": rules.machine,
        "qemu": list(rules.qemu),
        "levels": list(rules.levels),
        "smp": attrs.asdict(topology),
        "given": dict(reading.given),
        "why": dict(reading.why),
        "text": topology.format(rules.levels),
        "warnings": list(reading.warnings),
        "vcpus": [
            {
                "vcpu": vcpu,
                "plugged": vcpu < topology.cpus,
                **{level[:-1]: getattr(topology.place(vcpu), level[:-1]) for level in rules.levels},
                "apic_id": topology.apic_id(vcpu) if rules.apic else None,
            }
            for vcpu in range(topology.maxcpus)
        ],
    }
