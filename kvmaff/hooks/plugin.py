"""One plug-in: what is known of it, and whether it may take part."""

from __future__ import annotations

from typing import Any

import attrs
import pluggy

from kvmaff.hooks import specs
from kvmaff.hooks.blame import Origin, blamed, clean
from kvmaff.hooks.options import near_miss

__all__ = ["Plugin", "PluginInfo", "enlist"]

_HOOKS = tuple(name for name in specs.__all__ if name.startswith(f"{specs.PROJECT}_"))


@attrs.frozen(kw_only=True)
class PluginInfo:
    """
    What is known of one plug-in; every text is printable.

    Attributes:
        name: Its name, that of its entry point.
        distribution: The distribution that brought it, or None.
        version: That distribution's version, or None.
        hooks: The hooks that it implements.
        strategies: The strategies of its that can be used, by name.
        vmms: The same for VMMs.
        error: What is wrong with it; None where nothing is.
        disabled: Whether KVMAFF_DISABLE_PLUGINS turns it off.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    hooks: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    vmms: tuple[str, ...] = ()
    error: str | None = None
    disabled: bool = False


@attrs.define(kw_only=True, eq=False)
class Plugin:
    """
    A plug-in as the manager holds it.

    Attributes:
        origin: Whose it is.
        thing: What implements its hooks; None where it is disabled or cannot be used.
        hooks: The hooks that it implements.
        error: Why it cannot be used, or None.
        disabled: Whether it is turned off.
    """

    origin: Origin
    thing: Any = None
    hooks: tuple[str, ...] = ()
    error: str | None = None
    disabled: bool = False


def enlist(manager: pluggy.PluginManager, origin: Origin, thing: object) -> tuple[str, ...]:
    """
    Register an object with pluggy, and take it back unless all its hooks are ours and plain.

    Args:
        manager: Pluggy's.
        origin: Whose it is.
        thing: The object.

    Returns:
        The hooks that it implements.

    Raises:
        PluginError: It cannot take part, and is not registered; says everything that is wrong with its hooks.
    """
    # pluggy tells plug-ins apart by == and hash: an object that says it equals another one would harm that one
    if type(thing).__eq__ is not object.__eq__ or type(thing).__hash__ is not object.__hash__:
        raise origin.error("it has an == or hash of its own; a plug-in is a module, class or plain object")
    if manager.is_registered(thing):
        raise origin.error("what it names is another plug-in already")
    key = f"{origin} {len(manager.get_plugins())}"
    hooks: tuple[str, ...] = ()
    problems: list[str] = []
    try:
        with blamed(origin, "it cannot be registered"):
            manager.register(thing, key)
            hooks, problems = _look_at_hooks(manager, thing)
            if not problems:
                manager.check_pending()
        if problems:
            raise origin.error("; ".join(problems))
    except BaseException:
        manager.unregister(name=key)
        raise
    return hooks


def _look_at_hooks(manager: pluggy.PluginManager, thing: object) -> tuple[tuple[str, ...], list[str]]:
    """Return the hooks that a registered object implements, and what is wrong with how it does."""
    hooks, problems = set(), []
    for caller in manager.get_hookcallers(thing) or ():
        name = clean(caller.name, 60)
        for impl in caller.get_hookimpls():
            if impl.plugin is not thing:
                continue
            if caller.has_spec():
                hooks.add(caller.name)
            elif not impl.optionalhook:
                near = near_miss(caller.name, _HOOKS)
                problems.append(f"there is no hook {name!r}{near}")
            if impl.wrapper or impl.hookwrapper:
                problems.append(f"{name} is a wrapper, which could replace another's answer unseen")
            if impl.tryfirst or impl.trylast:
                problems.append(f"{name} asks for a place in an order, and there is none")
    if not hooks and not problems:
        problems.append("it implements no hook; is @hookimpl missing?")
    return tuple(sorted(hooks)), sorted(problems)
