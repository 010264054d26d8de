"""The one QEMU that a script starts, or what is wrong with that; nothing is guessed."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.errors import SpecError
from kvmaff.formats.qemuread import parse_qemu_text
from kvmaff.formats.qemuscript import qemu_words

GUEST = "qemu-system-x86_64 -name web -smp 4"


@given(hs.lists(hs.text(alphabet="ab #'\"\\$`=,;&|<>\n", min_size=1), min_size=1))
def test_words_that_were_quoted(words: list[str]) -> None:
    """Whatever is in them."""
    line = shlex.join(["qemu-system-x86_64", "-name", *words])
    assert ["qemu-system-x86_64", "-name", *words] == qemu_words(
        f"x && {line} 2>&1 | tee a -smp 8; y\n", "them"
    )


@pytest.mark.parametrize(
    "text",
    [
        GUEST,
        f"#!/bin/sh\nset -e\nexec {GUEST} # -smp 8",
        f"{GUEST} && echo -smp 8 -name q",
        f"{GUEST} | tee -a log -name q -smp 8",
        f"{GUEST} >log -drive file=$DISK\necho -name q",
        f"if [ -x /usr/bin/qemu-system-x86_64 ]; then\n  {GUEST}; fi",
        f"qemu-system-x86_64 --version\nwhich qemu-system-x86_64\n{GUEST}",
        f"cat <<E\n{GUEST.replace('web', 'other')}\nE\n{GUEST}",
        f"sudo -u kvm taskset -c 0 /usr/bin/{GUEST}",
        GUEST.replace("qemu-system-x86_64", "/usr/bin/kvm"),
        GUEST.replace("qemu-system-x86_64", "kvm"),
        GUEST.replace("qemu-system-x86_64", '"$QEMU" -accel kvm'),
        GUEST.replace("qemu-system-x86_64", "$SUDO qemu-kvm"),
        "-name web -smp 4",
        "-name web\n# so many\n-smp 4\n",
        "qemu-system-x86_64 -name web -smp 8,sockets=\\\n2 -smp 4,sockets=1",
        f"{GUEST} -object secret,id=$ID -device virtio-net,netdev=$NET",
    ],
)
def test_the_one_that_is_started(text: str) -> None:
    """The same guest, whatever else the script does."""
    spec = parse_qemu_text(text, "start.sh")
    assert ("web", 4) == (spec.name, spec.max_vcpus)


def test_what_a_shell_makes_of_words() -> None:
    """A '#' in a word is of the word, and a line that goes on within one goes on."""
    spec = parse_qemu_text(
        "qemu-system-x86_64 -name web#1 -m 4G -smp 4,\\\nsockets=2,threads=2,maxcpus=\\\n8", "start.sh"
    )
    assert ("web#1", 4 << 30, 4, 8, 2) == (
        spec.name,
        spec.memory_bytes,
        spec.vcpus,
        spec.max_vcpus,
        spec.threads,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{GUEST}\n\n{GUEST}", ["start.sh: starts 2 QEMUs, in lines 1, 3; a spec is of one guest"]),
        (f"{GUEST} &\n$QEMU -name b", ["starts 2 QEMUs, in lines 1, 2"]),
        (
            "qemu-system-x86_64 \\\n -name $NAME \\\n -smp ${CPUS:-4} -m $(free -m)",
            [
                'start.sh:2: -name: "$NAME" is known to a shell only',
                'start.sh:3: -smp: "${CPUS:-4}" is',
                'start.sh:3: -m: "$(free -m)" is',
            ],
        ),
        (f'{GUEST} "$@"', ['start.sh:1: a word that may be options: "$@" is known to a shell only']),
        (f"{GUEST} $MORE -nographic", ['a word that may be options: "$MORE"']),
        (f"{GUEST} -device $DEVICE", ['-device: "$DEVICE"']),
        (f"{GUEST} -device vfio-pci,host=$ADDRESS", ['-device: "$ADDRESS"']),
        (f"{GUEST} -object memory-backend-ram,id=m,size=$SIZE", ['-object: "$SIZE"']),
        (f"{GUEST} -${{X}}mp 4", ['an option: "${X}"']),
        (f"{GUEST} -name 'x", ["start.sh:1: is no command line: a ' is not closed"]),
        ("echo hello", ["starts no QEMU"]),
        ("-name a -smp 4 | tee log", ["starts no QEMU"]),
        ("qemu-system-x86_64", ["starts no QEMU"]),
        ("qemu-system-x86_64 --help", ["starts no QEMU"]),
        (f'sh -c "{GUEST}"', ["starts no QEMU"]),
        ("", ["a guest needs a name"]),
    ],
)
def test_what_is_not_known(text: str, said: list[str]) -> None:
    """Two guests, none, and what only a shell knows: each told with its line, none guessed."""
    with pytest.raises(SpecError) as error:
        parse_qemu_text(text, "start.sh")
    assert all(any(one in problem for problem in error.value.problems) for one in said), error.value.problems
