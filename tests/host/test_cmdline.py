"""The kernel's command line -> what it asks for CPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.host.cmdline import BOOT_OPTIONS, boot_words

POSSIBLE = CpuSet(range(32))
FLAGS = ("domain", "nohz", "managed_irq", "nohz_full", "rcu_nocbs", "irqaffinity")


def _asked(text: str) -> dict[str, str]:
    words = boot_words(text, POSSIBLE)
    return {flag: str(words.cpus(flag)) for flag in FLAGS if words.cpus(flag)}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", {}),
        ("quiet root=/dev/sda1", {}),
        ("ro isolcpus=4,5 quiet", {"domain": "4-5"}),
        ("isolcpus=domain,managed_irq,2-7", {"domain": "2-7", "managed_irq": "2-7"}),
        ("isolcpus=nohz,managed_irq,1-3", {"nohz": "1-3", "managed_irq": "1-3"}),
        ("isolcpus=managed_irq,1-3 isolcpus=domain,5", {"managed_irq": "1-3", "domain": "5"}),
        ("isolcpus=0-31:1/2", {"domain": ",".join(str(cpu) for cpu in range(0, 32, 2))}),
        ("isolcpus=30-N", {"domain": "30-31"}),
        ("nohz_full=all", {"nohz_full": "0-31"}),
        ("nohz_full=all:1/16", {"nohz_full": "0,16"}),
        ("isolcpus=4-40", {"domain": "4-31"}),
        ("rcu_nocbs", {}),
        ("rcu-nocbs=2,3", {"rcu_nocbs": "2-3"}),
        ("rcu_nocbs=2 rcu_nocbs=3", {"rcu_nocbs": "3"}),
        ('isolcpus="4,5" irqaffinity=0-1', {"domain": "4-5", "irqaffinity": "0-1"}),
        ("irqaffinity=0 -- isolcpus=4", {"irqaffinity": "0"}),
        ("xisolcpus=4 isolcpusx=5 isolcpus.z=6", {}),
    ],
)
def test_what_is_asked(text: str, asked: dict[str, str]) -> None:
    """Flags, strides, N, all, quotes, dashes and what follows -- mean what the kernel takes them for."""
    assert asked == _asked(text)
    assert () == boot_words(text, POSSIBLE).mistakes


@pytest.mark.parametrize(
    ("text", "asked", "word"),
    [
        ("isolcpus=", {}, None),
        ("isolcpus=frog,4", {"domain": "4"}, "frog"),
        ("isolcpus=all", {}, "all"),
        ("isolcpus=N", {}, "flag N"),
        ("rcu_nocbs=x-y", {"rcu_nocbs": "0-31"}, "not understood"),
        ("isolcpus=4-x", {}, "isolcpus=4-x"),
        ("isolcpus=4 isolcpus=5", {"domain": "4"}, "contradicts"),
        ("nohz_full=4 nohz_full=5", {"nohz_full": "4"}, "contradicts"),
        ("nohz_full=5 isolcpus=nohz,domain,managed_irq,4", {"nohz_full": "5"}, "contradicts"),
        ("isolcpus=nohz,managed_irq,4 nohz_full=5", {"nohz": "4", "managed_irq": "4"}, "contradicts"),
        ("isolcpus=\x1b[31m4", {}, "isolcpus=?[31m4"),
        ("nohz_full=99999999999", {}, "not understood"),
    ],
)
def test_mistakes_are_said(text: str, asked: dict[str, str], word: str | None) -> None:
    """What the kernel does not take is not believed, and said in words that a terminal may show."""
    assert asked == _asked(text)
    mistakes = " ".join(boot_words(text, POSSIBLE).mistakes)
    assert (word or "") in mistakes
    assert mistakes.isprintable()


@given(
    hs.text(alphabet=hs.sampled_from('isolcpusnhz_f=,-:/0123459N all"\x00\x1bé'), max_size=60),
    hs.sampled_from(BOOT_OPTIONS),
)
def test_never_anything_but_an_answer(noise: str, option: str) -> None:
    """Any text is an answer of possible CPUs, never an exception."""
    words = boot_words(f"{option}={noise}", POSSIBLE)
    assert all(words.cpus(flag) <= POSSIBLE for flag in FLAGS)
