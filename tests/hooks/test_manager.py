"""Plug-ins: found, contained, judged, combined; real entry points, nothing mocked."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kvmaff import CpuSet, PluginError, PluginInfo, PluginManager, Report, Strategy, Topology, Vmm, hookimpl
from kvmaff.guest.vmm import BUILTIN

from .strangers import SABOTEURS, STRATEGY, Install


def info(manager: PluginManager, name: str) -> PluginInfo:
    """One plug-in of the listing."""
    (found,) = [one for one in manager.plugins if one.name == name]
    return found


def topology(cpus: str = "0-3") -> Topology:
    """CPUs of which nothing more is told."""
    all_cpus = CpuSet.parse(cpus)
    levels = dict.fromkeys(("packages", "dies", "clusters", "cores", "l2", "l3", "nodes"), ())
    return Topology(possible=all_cpus, present=all_cpus, online=all_cpus, **levels)


def place(request):
    raise AssertionError("never asked")


def strategies(*names: str) -> type:
    """A plug-in with strategies of these names."""

    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_strategies():
            return [Strategy(name=name, summary="a test's", place=place) for name in names]

    return Plugin


def vmms(*names: str) -> type:
    """A plug-in with VMMs of these names."""

    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_vmms():
            return tuple(Vmm(name=name, executables=(name,), vcpu=r"cpu(\d+)") for name in names)

    return Plugin


def reserving(answer: object) -> type:
    """A plug-in that answers so which CPUs are reserved."""

    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_reserved_cpus(topology):
            return answer(topology) if callable(answer) else answer

    return Plugin


# -- loading


@pytest.mark.parametrize("saboteur", SABOTEURS)
def test_a_saboteur_harms_nobody(stranger: Install, saboteur: str) -> None:
    """What does one thing wrong is listed with that error, printable; a plug-in before it and one after it work."""
    code, said = SABOTEURS[saboteur]
    stranger("a-good", STRATEGY.format(name="a-good"))
    stranger(f"m-{saboteur}", code)
    stranger("z-good", STRATEGY.format(name="z-good"))
    manager = PluginManager.load()
    assert {"a-good", "z-good"} <= set(manager.strategies())
    assert "odd" not in manager.strategies()
    bad = info(manager, f"m-{saboteur}")
    assert bad.error is not None
    assert said in bad.error
    assert bad.error.isprintable()
    assert len(bad.error) < 1000
    assert ("kvmaff-m-" + saboteur, "1.5", ()) == (bad.distribution, bad.version, bad.strategies)
    for name in ("a-good", "z-good"):
        assert PluginInfo(
            name=name,
            distribution=f"kvmaff-{name}",
            version="1.5",
            hooks=("kvmaff_strategies",),
            strategies=(name,),
        ) == info(manager, name)


def test_all_saboteurs_together(stranger: Install) -> None:
    """All of them installed at once leave the good one standing, and each is listed with its error."""
    for name, (code, _) in SABOTEURS.items():
        stranger(f"bad-{name}", code)
    stranger("good", STRATEGY.format(name="good"))
    manager = PluginManager.load()
    assert "good" in manager.strategies()
    assert info(manager, "good").error is None
    for name, (_, said) in SABOTEURS.items():
        assert said in (info(manager, f"bad-{name}").error or "")


def test_keyboard_interrupt_is_the_user(stranger: Install) -> None:
    """Ctrl-C while a plug-in is imported is not the plug-in's failure: it passes."""
    stranger("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        PluginManager.load()


def test_the_order_is_of_names(stranger: Install) -> None:
    """Plug-ins are listed and asked in order of name, not of the path."""
    for name in ("zz-b", "aa-c", "zz-a"):
        stranger(name, STRATEGY.format(name=name))
    names = [plugin.name for plugin in PluginManager.load().plugins]
    assert sorted(names) == names
    assert ["aa-c", "zz-a", "zz-b"] == [name for name in names if name.startswith(("aa-", "zz-"))]


def test_disabled_by_globs(stranger: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVMAFF_DISABLE_PLUGINS turns off what fits one of its globs; that is listed, and not even imported."""
    stranger("slow-one", "raise AssertionError('imported')")
    stranger("slow-two", STRATEGY.format(name="two"))
    stranger("kept", STRATEGY.format(name="kept"))
    monkeypatch.setenv("KVMAFF_DISABLE_PLUGINS", " slow-*,, ?-nothing")
    manager = PluginManager.load()
    for name in ("slow-one", "slow-two"):
        one = info(manager, name)
        assert (True, None, ()) == (one.disabled, one.error, one.hooks)
    assert not info(manager, "kept").disabled
    assert "kept" in manager.strategies()
    assert "two" not in manager.strategies()
    everything = PluginManager.load(disable="*")
    assert {} == everything.strategies()
    assert all(one.disabled for one in everything.plugins)


def test_broken_metadata_of_another(stranger: Install, tmp_path: Path) -> None:
    """An entry_points.txt that cannot be read harms no other distribution; one that speaks of us is listed."""
    stranger("good", STRATEGY.format(name="good"))
    for name, text in (("mine", "[kvmaff]\nno equals sign\n"), ("other", "[console_scripts]\nno equals\n")):
        folder = tmp_path / "site" / f"broken_{name}-2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: broken-{name}\nVersion: 2\n")
        (folder / "entry_points.txt").write_text(text)
    manager = PluginManager.load()
    assert "good" in manager.strategies()
    assert "its entry_points.txt cannot be read" in (info(manager, "broken-mine").error or "")
    assert "broken-other" not in [one.name for one in manager.plugins]


def test_entry_points_may_be_given() -> None:
    """A program may give the entry points itself; those of other groups are left out."""
    points = [
        EntryPoint(name="other", value="os", group="console_scripts"),
        EntryPoint(name="gone", value="there_is_no_such_module", group="kvmaff"),
    ]
    (one,) = PluginManager.load(points).plugins
    assert ("gone", None, None) == (one.name, one.distribution, one.version)
    assert "ModuleNotFoundError" in (one.error or "")


def test_a_hostile_name(stranger: Install) -> None:
    """Escape sequences in a plug-in's name do not reach the listing."""
    stranger("hostile", "1 / 0", entry="\x1b[31mred")
    (one,) = [one for one in PluginManager.load().plugins if one.distribution == "kvmaff-hostile"]
    assert "?[31mred" == one.name
    assert "ZeroDivisionError" in (one.error or "")


def test_two_of_one_name(stranger: Install) -> None:
    """Two distributions may call their entry points alike: both work, and the distribution tells them apart."""
    stranger("x", STRATEGY.format(name="one"), distribution="kvmaff-one", entry="same")
    stranger("y", STRATEGY.format(name="two"), distribution="kvmaff-two", entry="same")
    manager = PluginManager.load()
    assert {"one", "two"} <= set(manager.strategies())
    listed = [(one.distribution, one.strategies) for one in manager.plugins if one.name == "same"]
    assert [("kvmaff-one", ("one",)), ("kvmaff-two", ("two",))] == listed


def test_the_same_module_twice(stranger: Install) -> None:
    """One module under two names is one plug-in; the second name is listed with that as its error."""
    module = stranger("first", STRATEGY.format(name="one"))
    points = [EntryPoint(name=name, value=module, group="kvmaff") for name in ("b", "a")]
    manager = PluginManager.load(points)
    assert ["one"] == list(manager.strategies())
    assert [None, "what it names is another plug-in already"] == [one.error for one in manager.plugins]


# -- registering


def test_register_raises_at_once() -> None:
    """A program that registers a bad plug-in is told so, everything that is wrong; nothing is added."""

    class Bad:
        @staticmethod
        @hookimpl
        def kvmaff_vms():
            return []

    manager = PluginManager()
    with pytest.raises(PluginError, match=r"plug-in 'bad': there is no hook 'kvmaff_vms'") as caught:
        manager.register(Bad, "bad")
    assert "bad" == caught.value.plugin
    assert () == manager.plugins
    manager.register(strategies("a"), "good")
    with pytest.raises(PluginError, match="another plug-in has that name"):
        manager.register(strategies("b"), "good")
    assert ["a"] == list(manager.strategies())


def test_managers_are_apart() -> None:
    """There is no global manager: what one knows, another does not."""
    one, other = PluginManager(), PluginManager()
    one.register(strategies("mine"), "mine")
    assert {} == other.strategies()


def test_one_that_says_it_equals_any_other() -> None:
    """An object with an == of its own could be taken for another plug-in: it is refused."""

    class Chameleon:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

        @hookimpl
        def kvmaff_strategies(self):
            return []

    manager = PluginManager()
    with pytest.raises(PluginError, match="== or hash of its own"):
        manager.register(Chameleon(), "chameleon")


def test_registering_later_counts() -> None:
    """What is registered after a listing is in the next one."""
    manager = PluginManager()
    manager.register(strategies("a"), "a")
    assert ["a"] == list(manager.strategies())
    manager.register(strategies("b"), "b")
    assert ["a", "b"] == list(manager.strategies())


# -- strategies and VMMs


def test_a_clash_names_both(stranger: Install) -> None:
    """A name that two give is nobody's: asked for, the error names both; both are listed with it; others work."""
    for name in ("p", "q"):
        stranger(
            name, STRATEGY.format(name="same") + "\n" + f"place_{name} = place", distribution=f"kvmaff-{name}"
        )
    manager = PluginManager.load()
    manager.register(strategies("other"), "other")
    assert "same" not in manager.strategies()
    assert "other" in manager.strategies()
    with pytest.raises(PluginError) as caught:
        manager.strategy("same")
    text = str(caught.value)
    assert "strategy 'same' is given by plug-in 'p' (kvmaff-p 1.5) and by plug-in 'q' (kvmaff-q 1.5)" in text
    assert ("p", "q") == caught.value.plugins
    assert [text, text] == [info(manager, name).error for name in ("p", "q")]


def test_a_bad_value_takes_nothing_from_a_good_one() -> None:
    """A value that cannot be used makes no clash with the good one of its name, and its neighbours are kept."""

    class Half:
        @staticmethod
        @hookimpl
        def kvmaff_strategies():
            yield Strategy(name="same", summary="", place=place)
            yield Strategy(name="kept", summary="good", place=place)
            yield Strategy(name="lost", summary="good", place=None)

    manager = PluginManager()
    manager.register(Half, "half")
    manager.register(strategies("same"), "whole")
    assert ["kept", "same"] == list(manager.strategies())
    assert ("kept",) == info(manager, "half").strategies
    assert "strategy 'lost': its place is None" in (info(manager, "half").error or "")
    with pytest.raises(PluginError, match="plug-in 'half': strategy 'lost': its place is None"):
        manager.strategy("lost")
    assert (None, None) == manager.strategy("never heard of")


def test_vmms() -> None:
    """VMMs are combined by name as strategies are; a built-in itself may be given, its name by no other."""
    manager = PluginManager()
    manager.register(vmms("mine", "twice"), "a")
    manager.register(vmms("twice"), "b")

    class Builtin:
        @staticmethod
        @hookimpl
        def kvmaff_vmms():
            return BUILTIN

    manager.register(Builtin, "c")
    assert sorted(["mine", *(vmm.name for vmm in BUILTIN)]) == list(manager.vmms())
    assert ("mine",) == info(manager, "a").vmms
    assert "VMM 'twice' is given by plug-in 'a' and by plug-in 'b'" in (info(manager, "b").error or "")


# -- reserved CPUs


def test_reserved_cpus_are_united() -> None:
    """What is reserved is the union of all answers; None is no opinion; the topology is the host's."""
    manager = PluginManager()
    assert CpuSet() == manager.reserved_cpus(topology())
    manager.register(reserving(CpuSet([0])), "a")
    manager.register(reserving(None), "b")
    manager.register(reserving(lambda known: CpuSet([known.online.last])), "c")
    assert CpuSet([0, 3]) == manager.reserved_cpus(topology())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({0}, "kvmaff_reserved_cpus gave a set, no CpuSet"),
        ("0-3", "kvmaff_reserved_cpus gave a str, no CpuSet"),
        (CpuSet([2, 4, 99]), "kvmaff_reserved_cpus gave CPUs that this host never has: 4,99"),
        (lambda _: 1 / 0, "kvmaff_reserved_cpus failed: ZeroDivisionError: division by zero"),
        (lambda _: exec("raise SystemExit(1)"), "kvmaff_reserved_cpus failed: SystemExit: 1"),
    ],
)
def test_a_bad_reservation_stops_the_decision(answer: object, said: str) -> None:
    """Whose reservation is not known could lose CPUs that were to be kept free: that is an error with its name."""
    manager = PluginManager()
    manager.register(reserving(CpuSet([0])), "good")
    manager.register(reserving(answer), "bad")
    with pytest.raises(PluginError) as caught:
        manager.reserved_cpus(topology())
    assert f"plug-in 'bad': {said}" == str(caught.value)
    assert "bad" == caught.value.plugin


# -- applied


def test_applied_tells_all_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Every plug-in hears of what was done; one that fails is logged, printable, and nothing is raised."""
    heard: list[Report] = []

    class Listener:
        @hookimpl
        def kvmaff_applied(self, report):
            heard.append(report)

    class Bad:
        @hookimpl
        def kvmaff_applied(self, report):
            raise SystemExit(f"\x1b[2J{report.ok}")

    manager = PluginManager()
    manager.register(Listener(), "z")
    manager.register(Bad(), "m")
    manager.register(Listener(), "a")
    report = Report(ok=True, threads=())
    with caplog.at_level(logging.ERROR, logger="kvmaff"):
        manager.applied(report)
    assert [report, report] == heard
    assert ["plug-in 'm': kvmaff_applied failed: SystemExit: ?[2JTrue"] == [
        record.getMessage() for record in caplog.records
    ]


# -- the example in the specifications


def test_the_documented_example(stranger: Install) -> None:
    """The plug-in in the specifications' documentation works as it stands."""
    from kvmaff.hooks import specs

    text = (specs.__doc__ or "").partition("::\n\n")[2].partition("\n\nRule:")[0]
    code = "\n".join(line[4:] for line in text.splitlines())
    assert "@hookimpl" in code
    stranger("example", code.replace("place=place", "place=print"))
    assert "mine" in PluginManager.load().strategies()
