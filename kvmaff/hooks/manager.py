"""
The plug-ins of one program: found, asked one by one, their answers judged and combined.

Rules:

* Loading never fails. What a plug-in does wrong is listed with it (``plugins``) and harms no other one.
* A listing (``strategies``, ``vmms``) leaves out what is bad and keeps what is good, value by value.
* What decides (``reserved_cpus``, ``check_placement``, ``decide``) is strict: where a plug-in that has a say fails,
  there is no answer, as its say could have been no.
* A name that two plug-ins give is nobody's: built-ins get no special way, and no order decides. It is left out of the
  listing, shown with each of them, and an error that names them all when it is asked for.
* There is no global manager: whoever loads one holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pluggy

from kvmaff.binding.report import Report
from kvmaff.cpuset import CpuSet
from kvmaff.errors import PluginError
from kvmaff.guest.vmm import Vmm
from kvmaff.hooks import specs
from kvmaff.hooks.answers import items_of, judge_strategy, judge_violation, judge_vmm
from kvmaff.hooks.blame import Origin, blamed, clean
from kvmaff.hooks.decide import clean_up, decide
from kvmaff.hooks.found import DISABLE, disabled_globs, find, is_disabled
from kvmaff.hooks.offers import Offer, gather
from kvmaff.hooks.plugin import Plugin, PluginInfo, enlist
from kvmaff.host.topology import Topology
from kvmaff.placement.placement import Placement
from kvmaff.placement.rebalance import CleanUp, Progress
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.strategy import Strategy
from kvmaff.placement.verify import Violation

__all__ = ["PluginInfo", "PluginManager"]

_log = logging.getLogger(__name__)


class PluginManager:
    """
    The plug-ins of one program, none at first; :meth:`load` makes one with all that are installed.

    A plug-in is asked for its strategies and VMMs once, and for everything else each time.
    """

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(specs.PROJECT)
        self._pluggy.add_hookspecs(specs)
        self._all: list[Plugin] = []
        self._offers: dict[str, Offer[Any]] = {}

    # -- finding

    @classmethod
    def load(
        cls, entry_points: Iterable[EntryPoint] | None = None, *, disable: str | None = None
    ) -> PluginManager:
        """
        Load every plug-in that is installed.

        Args:
            entry_points: Take these instead of the installed ones.
            disable: Globs over names, parted by commas, of plug-ins that are not even imported; None for what
                the environment variable KVMAFF_DISABLE_PLUGINS says.

        Returns:
            A manager with those that work; :attr:`plugins` has the others too, each with its error.
        """
        self = cls()
        globs = disabled_globs(disable)
        for found in find(entry_points):
            one = Plugin(origin=found.origin, error=found.error)
            self._all.append(one)
            if is_disabled(found.origin.name, globs):
                one.error, one.disabled = None, True
            elif found.entry_point is not None:
                try:
                    with blamed(found.origin, "it cannot be imported"):
                        thing = found.entry_point.load()
                    self._adopt(one, thing)
                except PluginError as error:
                    one.error = found.origin.strip(error)
        return self

    def register(self, plugin: object, name: str) -> None:
        """
        Add a plug-in of the program's own.

        Args:
            plugin: A module, a class or an object with functions that ``hookimpl`` marks.
            name: Its name, which no other plug-in has.

        Raises:
            PluginError: It cannot be used; nothing was added.
        """
        one = Plugin(origin=Origin(name=clean(name, 80)))
        if any(one.origin.name == other.origin.name for other in self._all):
            raise one.origin.error("another plug-in has that name")
        self._adopt(one, plugin)
        self._all.append(one)

    def _adopt(self, one: Plugin, thing: object) -> None:
        one.hooks = enlist(self._pluggy, one.origin, thing)
        one.thing = thing
        self._offers.clear()

    # -- listing

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every plug-in, those too that are disabled or do not work; in order of name."""
        strategies, vmms = self._strategies, self._vmms
        infos = []
        for one in self._all:
            errors = [one.error] if one.error else []
            errors += [what for who, what in (*strategies.problems, *vmms.problems) if who is one]
            infos.append(
                PluginInfo(
                    name=one.origin.name,
                    distribution=one.origin.distribution,
                    version=one.origin.version,
                    hooks=one.hooks,
                    strategies=tuple(name for name in strategies.good if strategies.givers[name] is one),
                    vmms=tuple(name for name in vmms.good if vmms.givers[name] is one),
                    error="; ".join(errors) or None,
                    disabled=one.disabled,
                )
            )
        return tuple(sorted(infos, key=lambda info: (info.name, info.distribution or "")))

    def strategies(self) -> dict[str, Strategy]:
        """
        List the strategies.

        Returns:
            Those that can be used, by name, in order of name. What is bad about the others is in :attr:`plugins`.
        """
        return dict(self._strategies.good)

    def vmms(self) -> dict[str, Vmm]:
        """
        List the VMMs that plug-ins know.

        Returns:
            Those that can be used, by name, in order of name. What is bad about the others is in :attr:`plugins`.
        """
        return dict(self._vmms.good)

    def strategy(self, name: str) -> tuple[Strategy | None, Origin | None]:
        """
        Find a strategy.

        Args:
            name: Its name.

        Returns:
            The strategy and whose it is; twice None where nobody gives one of that name.

        Raises:
            PluginError: Somebody does, but it cannot be used, or several do.
        """
        offer = self._strategies
        if name in offer.bad:
            raise offer.bad[name]
        if name not in offer.good:
            return None, None
        return offer.good[name], offer.givers[name].origin

    @property
    def _strategies(self) -> Offer[Strategy]:
        return self._offer("kvmaff_strategies", "strategy", judge_strategy)

    @property
    def _vmms(self) -> Offer[Vmm]:
        return self._offer("kvmaff_vmms", "VMM", judge_vmm)

    def _offer(self, hook: str, kind: str, judge: Callable[[object], list[str]]) -> Offer[Any]:
        if hook not in self._offers:
            self._offers[hook] = gather(
                hook, kind, self._having(hook), lambda one: self._ask(one, hook), judge
            )
        return self._offers[hook]

    # -- asking

    def _having(self, hook: str) -> list[Plugin]:
        return sorted(
            (one for one in self._all if hook in one.hooks),
            key=lambda one: (one.origin.name, one.origin.distribution or ""),
        )

    def _ask(self, one: Plugin, hook: str, **arguments: object) -> list[object]:
        """Ask one plug-in alone, so that blame has a name; every one of its answers, None among them."""
        others = [other.thing for other in self._all if other.thing is not None and other is not one]
        caller = self._pluggy.subset_hook_caller(hook, others)
        with blamed(one.origin, f"{hook} failed"):
            answers = list(caller(**arguments))
        # pluggy keeps no None; a hook that forgot its return has given one
        return answers + [None] * (len(caller.get_hookimpls()) - len(answers))

    def reserved_cpus(self, topology: Topology) -> CpuSet:
        """
        Ask which CPUs no guest's thread may use.

        Args:
            topology: The host's CPUs.

        Returns:
            All that any plug-in reserves.

        Raises:
            PluginError: One failed, or gave something else than possible CPUs.
        """
        hook = "kvmaff_reserved_cpus"
        union = CpuSet()
        for one in self._having(hook):
            for answer in self._ask(one, hook, topology=topology):
                if answer is None:
                    continue
                if type(answer) is not CpuSet:
                    raise one.origin.error(f"{hook} gave a {clean(type(answer).__name__, 60)}, no CpuSet")
                if not answer <= topology.possible:
                    strange = answer - topology.possible
                    raise one.origin.error(f"{hook} gave CPUs that this host never has: {strange}")
                union |= answer
        return union

    def check_placement(self, request: PlacementRequest, placement: Placement) -> tuple[Violation, ...]:
        """
        Ask what is wrong with a placement.

        Args:
            request: What was to be decided.
            placement: The answer.

        Returns:
            The objections of all plug-ins; each message begins with whose it is.

        Raises:
            PluginError: One failed, or gave something else than objections.
        """
        hook = "kvmaff_check_placement"
        found: list[Violation] = []
        for one in self._having(hook):
            for answer in self._ask(one, hook, request=request, placement=placement):
                for item in [] if answer is None else items_of(one.origin, hook, answer):
                    for what in judge_violation(item):
                        raise one.origin.error(f"{hook}: {what}")
                    assert isinstance(item, Violation)
                    found.append(
                        Violation(
                            rule=clean(item.rule, 60),
                            guest=None if item.guest is None else clean(item.guest, 120),
                            message=f"{one.origin} objects: {clean(item.message)}",
                        )
                    )
        return tuple(found)

    def applied(self, report: Report) -> None:
        """
        Tell plug-ins what was done. It is done: one that fails is logged, and changes nothing.

        Args:
            report: The report.
        """
        for one in self._having("kvmaff_applied"):
            try:
                self._ask(one, "kvmaff_applied", report=report)
            except PluginError as error:
                # the traceback only for who asks: its text is theirs, and may hold escapes
                _log.error("%s", error)
                _log.debug("what it raised:", exc_info=error)

    def decide(
        self, request: PlacementRequest, strategy: str, options: Mapping[str, object] | None = None
    ) -> Placement:
        """
        Let a strategy decide, and use its answer only if it keeps every rule and nobody objects.

        Args:
            request: What is to be decided; CPUs that plug-ins reserve are added to its own.
            strategy: The strategy's name.
            options: Its options by name, as texts or values; None for its defaults, or for what the request has.

        Returns:
            The placement, under the strategy's name.

        Raises:
            RequestError: There is no such strategy, or an option is wrong; everything wrong with it is named.
            PlacementImpossible: A guest has no place; says why. A placement of the others in it keeps every rule.
            PlacementRefused: The answer breaks a rule, or a plug-in objects.
            PluginError: A plug-in failed or gave something else than it was asked for.
        """
        return decide(self, request, strategy, options)

    def rebalance(
        self,
        request: PlacementRequest,
        strategy: str,
        options: Mapping[str, object] | None = None,
        *,
        progress: Progress | None = None,
    ) -> CleanUp:
        """
        Find what guests would gain elsewhere by a strategy's levels.

        Args:
            request: The host; every guest has a place that keeps the rules. Its budget says how many may be moved.
            strategy: The strategy's name.
            options: Its options by name.
            progress: Is told how far it is.

        Returns:
            Who gains what, and in which order they could go.

        Raises:
            RequestError: There is no such strategy or option, or it does not tell what it wants.
            PlacementRefused: An answer breaks a rule, or a plug-in objects.
            PluginError: A plug-in failed or gave something else than it was asked for.
        """
        return clean_up(self, request, strategy, options, progress)

    def suspects(self) -> str:
        """
        Say which plug-ins could have had what was not found.

        Returns:
            A sentence, or nothing where all plug-ins work.
        """
        words = [f"{info.name!r} does not work" for info in self.plugins if info.error]
        words += [f"{info.name!r} is disabled by {DISABLE}" for info in self.plugins if info.disabled]
        return f"plug-in {', '.join(words)}: see 'kvmaff plugins'" if words else ""
