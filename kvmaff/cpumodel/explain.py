"""A model, or a whole ``-cpu``, explained: what it stands for, what it has, and what keeps a host from running it."""

from __future__ import annotations

import attrs

from kvmaff.cpumodel.binary import asked
from kvmaff.cpumodel.level import level_of
from kvmaff.cpumodel.model import CpuModel, HostCpu, Verdict, judge
from kvmaff.cpumodel.reading import expand
from kvmaff.cpumodel.table import CpuModels
from kvmaff.cpumodel.text import CpuText, parse_cpu
from kvmaff.errors import QmpRefused, WrongUsage
from kvmaff.guest.plainly import plainly

__all__ = ["Explained", "OtherVersion", "explain_cpu"]

_SETTINGS = frozenset({"check", "enforce", "migratable", "host-phys-bits", "pmu", "l3-cache"})


@attrs.frozen(kw_only=True)
class OtherVersion:
    """
    Another version of a model.

    Attributes:
        model: It.
        more: What it has that the explained one has not.
        less: The reverse.
        verdict: Whether the host runs it.
    """

    model: CpuModel
    more: frozenset[str]
    less: frozenset[str]
    verdict: Verdict


@attrs.frozen(kw_only=True)
class Explained:
    """
    What a ``-cpu`` is.

    Attributes:
        text: What was written.
        named: The model that it names.
        model: The one with a version that this stands for; the same where it is no alias.
        features: What a guest has; for ``host`` and ``max`` what this host gives.
        host: The host that it is held against.
        verdict: Whether that one runs it.
        aliases: The other names of the model.
        versions: The other versions of it.
    """

    text: str
    named: CpuModel
    model: CpuModel
    features: frozenset[str]
    host: HostCpu
    verdict: Verdict
    aliases: tuple[str, ...]
    versions: tuple[OtherVersion, ...]

    @property
    def level(self) -> int:
        """The x86-64 psABI's level of it."""
        return level_of(self.features)


def explain_cpu(text: str, models: CpuModels, *, host: HostCpu | None = None) -> Explained:
    """
    Explain a ``-cpu``.

    Args:
        text: A model's name, or all that ``-cpu`` takes; the binary is asked where it is more than a name.
        models: The binary's models.
        host: The host to hold it against; None for this one.

    Returns:
        The explanation.

    Raises:
        WrongUsage: There is no such model or property, or the text is none.
        RequestError: These models say nothing of that host.
        QemuError: The binary cannot be asked.
    """
    host = host or models.host
    said = parse_cpu(text)
    named = models.get(said.model)
    model = models.resolved(named)
    verdict, features = models.judge(named, host), named.features
    if said.words:
        props, features = _expanded(models, said)
        # what is asked for by name is not turned off by KVM
        off = models.off(host) - {name for name, value in props.items() if value is True}
        verdict = judge(features, host, off=off) if named.fixed else _on_a_host(props, verdict, host)
    family = model.name.rpartition("-v")[0] or model.name
    others = [one for one in models.models if one.alias_of is None and one.name != model.name]
    return Explained(
        text=text,
        named=named,
        model=model,
        features=features,
        host=host,
        verdict=verdict,
        aliases=tuple(
            one.name for one in models.models if one.alias_of == model.name and one.name != said.model
        ),
        versions=tuple(
            OtherVersion(
                model=one,
                more=one.features - model.features,
                less=model.features - one.features,
                verdict=models.judge(one, host),
            )
            for one in sorted(others, key=lambda one: one.name)
            if one.name.rpartition("-v")[0] == family
        ),
    )


_Props = dict[str, bool | int | str]


def _expanded(models: CpuModels, said: CpuText) -> tuple[_Props, frozenset[str]]:
    """What is set, each feature by one name, and what that makes."""

    async def whole() -> tuple[_Props, frozenset[str]]:
        async with asked(models.binary, accel=models.accel, machine=models.machine) as qemu:
            try:
                nothing = (await expand(qemu, "base")).features
                names: dict[str, str] = {}
                for name, value in said.words:
                    if isinstance(value, bool) and name not in models.names and name not in _SETTINGS:
                        # another name of a feature turns on just this one
                        found = (await expand(qemu, "base", {name: True})).features - nothing
                        names[name] = next(iter(found)) if len(found) == 1 else name
                props: _Props = {}
                for name, value in said.words:
                    props[names.get(name, name)] = value
                return props, (await expand(qemu, said.model, props)).features
            except QmpRefused as error:
                raise WrongUsage.of([f"{models.binary} refuses this -cpu: {error.reason}"]) from error

    return plainly(whole)


def _on_a_host(props: _Props, verdict: Verdict, host: HostCpu) -> Verdict:
    """``host`` and ``max`` have what their host has; what is asked for besides may not be there."""
    more = judge([name for name, value in props.items() if value is True and name not in _SETTINGS], host)
    return Verdict(missing=verdict.missing | more.missing, unknown=verdict.unknown | more.unknown)
