"""All models of one QEMU binary, as that binary tells them, and what this host can give them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import attrs

from kvmaff.cpumodel.model import OFF_UNDER_KVM, CpuModel, HostCpu, Verdict, judge
from kvmaff.errors import RequestError, WrongUsage
from kvmaff.kernel.text import printable

__all__ = ["CpuModels"]


@attrs.frozen(kw_only=True)
class CpuModels:
    """
    The models of a binary.

    Attributes:
        binary: Its absolute path.
        version: (major, minor, micro).
        package: What its packager calls it; may be empty.
        accel: ``kvm`` or ``tcg``: by what it ran when it was asked, on which features depend.
        machine: The machine type it was asked with, on which aliases depend.
        host: What this host can give under ``accel``.
        models: The models, by name.
        names: All features that it knows.
        with_svm: The features that a guest has only with ``svm``.
        with_vmx: Those that it has only with ``vmx``.
        default: The model of a guest that asks for none; None where the machine types do not say.
        refused: (model, why) of those that it lists and does not expand.
    """

    binary: str
    version: tuple[int, int, int]
    package: str
    accel: str
    machine: str
    host: HostCpu
    models: tuple[CpuModel, ...]
    names: frozenset[str]
    with_svm: frozenset[str]
    with_vmx: frozenset[str]
    default: str | None
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def arch(self) -> str:
        """The architecture."""
        return self.host.arch

    @property
    def nested(self) -> frozenset[str]:
        """What only guests with guests of their own need."""
        return self.with_svm | self.with_vmx | {"svm", "vmx"}

    @property
    def defaults(self) -> tuple[CpuModel, ...]:
        """The models of guests that ask for none, or for what runs everywhere: the default and ``kvm64``."""
        wanted = dict.fromkeys((self.default, "kvm64"))
        return tuple(model for name in wanted for model in self.models if model.name == name)

    def get(self, name: str) -> CpuModel:
        """
        Find a model.

        Args:
            name: Its name, or an alias.

        Returns:
            The model of that name.

        Raises:
            WrongUsage: The binary has none of that name; a near one is suggested.
        """
        for model in self.models:
            if model.name == name:
                return model
        why = next(
            (f": it does not expand it: {why}" for refused, why in self.refused if refused == name), None
        )
        if why is None:
            by_folded = {model.name.casefold(): model.name for model in self.models}
            near = difflib.get_close_matches(name[:64].casefold(), by_folded, n=1)
            why = (
                f"; did you mean {by_folded[near[0]]}?"
                if near
                else "; kvmaff cpumodel list shows those it has"
            )
        said = printable(name.encode(errors="replace"), 64)
        raise WrongUsage.of([f"{self.binary} has no CPU model {said!r}{why}"])

    def known(self, names: Iterable[str]) -> frozenset[str]:
        """
        Check the names of features.

        Args:
            names: They, by QEMU's names.

        Returns:
            The same.

        Raises:
            WrongUsage: The binary has no such feature; says all that are none, and what is near.
        """
        wanted = frozenset(names)
        wrong = []
        for name in sorted(wanted - self.names):
            near = difflib.get_close_matches(name[:64].lower().replace("_", "-"), sorted(self.names), n=1)
            miss = f"; did you mean {near[0]}?" if near else ""
            said = printable(name.encode(errors="replace"), 64)
            wrong.append(f"{self.binary} has no feature {said!r}{miss}")
        if wrong:
            raise WrongUsage.of(wrong)
        return wanted

    def resolved(self, model: CpuModel) -> CpuModel:
        """
        Find what an alias stands for.

        Args:
            model: A model of the binary.

        Returns:
            The model with a version; the same where it is no alias.
        """
        for one in self.models:
            if one.name == model.alias_of:
                return one
        return model

    def judge(self, model: CpuModel, host: HostCpu) -> Verdict:
        """
        Say whether a host can run a model.

        Args:
            model: A model of the binary.
            host: The host.

        Returns:
            The verdict.

        Raises:
            RequestError: The host is of another architecture, or runs guests by TCG and the models were read under
                KVM.
        """
        self.fits(host)
        if not model.fixed:  # it is what its host is, and host is so by KVM (QEMU target/i386/host-cpu.c)
            needs = frozenset({"kvm"} if model.name == "host" and host.accel != "kvm" else ())
            return Verdict(missing=needs, unknown=frozenset())
        return judge(model.features, host, off=self.off(host))

    def off(self, host: HostCpu) -> frozenset[str]:
        """
        Say what named models have here and would not get on a host.

        Args:
            host: The host.

        Returns:
            Features; none where the models were read under what the host runs guests by.
        """
        if host.accel == "kvm" and self.accel == "tcg":
            return OFF_UNDER_KVM | self.with_svm
        return frozenset()

    def fits(self, host: HostCpu) -> None:
        """
        Refuse a host of which these models say nothing.

        Args:
            host: The host.

        Raises:
            RequestError: As for :meth:`judge`.
        """
        wrong = []
        if host.arch != self.arch:
            wrong.append(f"{host.name} is {host.arch}, the models of {self.binary} are for {self.arch}")
        if host.accel == "tcg" and self.accel == "kvm":
            wrong.append(
                f"{host.name} runs guests by TCG, the models were read under KVM: read them under TCG (--accel)"
            )
        if wrong:
            raise RequestError.of(wrong)


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """
    Bring features into the order in which they are told.

    Args:
        names: Features.

    Returns:
        Them by name, those of nested virtualisation (``vmx-…``), of which there are many, last.
    """
    return tuple(sorted(names, key=lambda name: (name.startswith("vmx-"), name)))
