"""
A model made into what is wanted: QEMU expands a text, and what differs is set, until nothing does.

Nothing of how features depend on each other is known here. What is set in vain (``rdctl-no`` where
``arch-capabilities`` is not shared) is given up, since with ``enforce`` QEMU would not start. Under TCG that holds for
all that KVM alone has.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from kvmaff.cpumodel.model import GIVEN_BY_KVM, OFF_UNDER_KVM, ON_UNDER_KVM, CpuModel, HostCpu
from kvmaff.cpumodel.reading import expand
from kvmaff.cpumodel.table import CpuModels
from kvmaff.errors import QmpRefused
from kvmaff.guest.conversation import Conversation

__all__ = ["Spelt", "spell", "spelling_cost"]

_ROUNDS = 12


def spelling_cost(model: CpuModel, wanted: frozenset[str], ignored: frozenset[str] = frozenset()) -> int:
    """
    Say what it costs to make a model into what is wanted.

    Args:
        model: The model.
        wanted: The features.
        ignored: Features that do not count.

    Returns:
        1 for each feature to be added, and 2, 3, 4 and so on for each to be removed.
    """
    remove = len(model.features - wanted - ignored)
    return len(wanted - model.features - ignored) + remove * (remove + 3) // 2


@attrs.frozen(kw_only=True)
class Spelt:
    """
    A model made into something else.

    Attributes:
        model: The model.
        props: What is set otherwise than it is in it, by feature.
        features: What that makes.
    """

    model: CpuModel
    props: dict[str, bool]
    features: frozenset[str]


async def spell(
    qemu: Conversation, model: CpuModel, wanted: frozenset[str], models: CpuModels, hosts: Sequence[HostCpu]
) -> Spelt | None:
    """
    Set a model's features until it is what is wanted.

    Args:
        qemu: The QEMU that expands it.
        model: The model.
        wanted: The features.
        models: The binary's models.
        hosts: The hosts, all of one accelerator.

    Returns:
        What has nothing that is not wanted; None where something cannot be removed.
    """
    free = GIVEN_BY_KVM if hosts[0].accel == "kvm" else frozenset()
    elsewhere = hosts[0].accel != models.accel
    props: dict[str, bool] = {}
    if elsewhere:  # what KVM will turn on and off by itself is not seen here
        props = {name: name in wanted for name in (OFF_UNDER_KVM | ON_UNDER_KVM) & models.names}
    dependent = models.with_svm | models.with_vmx
    hopeless: set[str] = set()
    for rounds in range(_ROUNDS):
        try:
            expanded = await expand(qemu, model.name, props)
        except QmpRefused:
            return None
        differing = (wanted - expanded.features - hopeless) | (expanded.features - wanted - free)
        if not rounds:
            differing -= dependent  # which come and go with what they depend on
        # what was set already and is not so depends on what the hosts do not share
        vain = {name for name in differing if props.get(name) is (name in wanted)}
        if vain - wanted:
            return None
        hopeless |= vain
        new = {name: name in wanted for name in differing - vain}
        props = {name: on for name, on in props.items() if name not in vain} | new
        if rounds and not vain and not new:
            break
    else:
        return None
    off = models.off(hosts[0])
    unsaid = {name for name, on in props.items() if not on and name in off}  # KVM does that
    return Spelt(
        model=model,
        props={name: on for name, on in props.items() if name not in unsaid},
        features=expanded.features | (ON_UNDER_KVM & wanted if elsewhere else frozenset()),
    )
