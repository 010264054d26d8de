"""
Does a placement keep every rule? The answer of every strategy, ours or a stranger's, passes here before it is used.

All violations are returned, not the first, in order of the rules and then of the placement's guests:

======================  ==============================================================================================
``shape``               the placement and its parts are of the right types; what is not is passed over by other rules
``guests``              each guest of the request has one place, nobody else has one; pid and start are the request's;
                        so is the spec, but a strategy may promise more in place of a policy that is the mildest:
                        dedicated for shared, require or isolate for prefer, isolate or housekeeping for share
``threads``             vCPUs 0 to ``max_vcpus`` - 1, the emulator as a whole, each IOThread by index (or, where the
                        spec names none, all as a whole), at most vhost as a whole besides; each once, nothing else
``empty``               every thread has a CPU
``online``              that is online,
``granted``             that its cgroups grant,
``reserved``            and that is not reserved
``isolated``            a thread with several CPUs has no isolated one, where nothing would balance its load
``dedicated``           a dedicated vCPU has one PU, which no other vCPU and no thread of another guest uses, inside
                        the request or outside; nobody uses what is dedicated to a guest outside
``shared``              the vCPUs of a guest that float have one set; where it has NUMA cells, those of a cell
``siblings``            require: on a core it uses, a guest has whole groups of siblings, of two vCPUs or as many as
                        it sees threads a core, which are the ones that it sees as siblings;
                        isolate: one vCPU a core, and no other thread of anybody on the core's other PUs
``cells``               the vCPUs of a guest's NUMA cell are in one node
``memory``              the nodes named are those that the vCPUs use; what guests to come need on a node is free there
``emulator``            the other threads of a guest are where its emulator policy has them: share, on its vCPUs' CPUs;
                        isolate, on PUs that nobody else uses, its vCPUs included; housekeeping, on no dedicated PU
                        and no isolated CPU; its IOThreads where their own policy has them, each on a PU of its own
                        under isolate; share means for a mixed guest the CPUs of the vCPUs that float
``pool``                vCPUs are in the guest's CPU pool, or in none; its other threads in no other pool
``overcommit``          in no pool do more vCPUs float than its ratio allows for the CPUs that are nobody's alone
``core_kind``           vCPUs are on cores of one kind, the one that is wanted, unless any will do
``trust_domain``        on a core with a vCPU of one trust domain there is no thread of a guest of another
``affinity``            of two guests that are to be near, the nodes (L3 groups, cores) of one's vCPUs are all among
                        the other's; those to be apart have none in common; no rule where the other has no place
``moves``               of the guests that have a place no more get another one than the budget allows; whose place
                        keeps no rule any more is not counted
======================  ==============================================================================================

Where the host does not say, there is no rule: a PU of which it tells no siblings is a core of its own, without NUMA
nodes cells and memory are anywhere. A CPU that several nodes name is in the first.

Who is placed twice, or not asked for, is reported by ``guests``; the place that should not be counts for no other
rule. Where two guests are in each other's way, each whose right is broken has its violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from kvmaff.placement import _rules, _rules_alone, _rules_moves, _rules_where
from kvmaff.placement._legible import Case, Complaint
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest

__all__ = ["RULES", "Violation", "verify"]


@attrs.frozen(kw_only=True)
class Violation:
    """
    One broken rule.

    Attributes:
        rule: The rule's name.
        guest: The guest concerned, or None.
        message: What is wrong, with CPUs and threads, for a person.
    """

    rule: str
    guest: str | None
    message: str


_CHECKS: tuple[Callable[[Case], Iterator[Complaint]], ...] = (
    _rules.shape,
    _rules.guests,
    _rules.threads,
    _rules.empty,
    _rules.online,
    _rules.granted,
    _rules.reserved,
    _rules.isolated,
    _rules_alone.dedicated,
    _rules.shared,
    _rules_alone.siblings,
    _rules.cells,
    _rules.memory,
    _rules_alone.emulator,
    _rules_where.pool,
    _rules_where.overcommit,
    _rules_where.core_kind,
    _rules_where.trust_domain,
    _rules_where.affinity,
    _rules_moves.moves,
)

RULES: tuple[str, ...] = tuple(check.__name__ for check in _CHECKS)
"""The names of the rules, in order."""


def verify(request: PlacementRequest, placement: Placement) -> tuple[Violation, ...]:
    """
    Find every rule that a placement breaks.

    Args:
        request: What was asked.
        placement: The answer; it may be anything at all, what has a wrong type is a violation too.

    Returns:
        All violations, the same ones in the same order for the same arguments; none where the placement may be used.
    """
    case = Case(request, placement)
    found = (
        Violation(rule=rule, guest=guest, message=message)
        for rule, check in zip(RULES, _CHECKS, strict=True)
        for guest, message in check(case)
    )
    return tuple(dict.fromkeys(found))  # two threads may complain of a third in the same words
