"""Filter expressions: what they compile to, and what is said about those that do not."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from filter_corpus import EVERYDAY, expressions

from wirecap.errors import UsageError
from wirecap.filters import libpcap
from wirecap.filters import opcodes as op
from wirecap.filters.dump import dump, dump_decimal, dump_ebpf
from wirecap.filters.expression import compile_filter
from wirecap.filters.program import Program


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser is not given up because the machine is busy: expressions here are short."""
    monkeypatch.setattr(libpcap, "PATIENCE_S", 60.0)


TCPDUMP = shutil.which("tcpdump")
needs_tcpdump = pytest.mark.skipif(not TCPDUMP, reason="needs tcpdump")


def tcpdump(option: str, text: str) -> str:
    return subprocess.run(
        [str(TCPDUMP), "-y", "EN10MB", option, text], capture_output=True, text=True, check=True
    ).stdout


def test_the_empty_expression_accepts_everything():
    """No expression is one return of the snap length."""
    assert compile_filter("", snaplen=96).rows == [(op.RET, 0, 0, 96)]


def test_a_program_cannot_be_changed():
    """The instructions are an int64 array of shape (n, 4) that is read-only."""
    program = compile_filter("tcp")
    assert program.instructions.shape == (12, 4)
    assert program.instructions.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        program.instructions[0, 0] = 1


@needs_tcpdump
@pytest.mark.parametrize("text", [*EVERYDAY, "inbound and ifindex 3"])
def test_dumps_are_tcpdumps(text):
    """-d, -dd and -ddd print what tcpdump prints for the same instructions."""
    theirs = tcpdump("-ddd", text)
    program = Program.of(map(int, line.split()) for line in theirs.splitlines()[1:])
    assert dump(program) + "\n" == tcpdump("-d", text)
    assert dump_decimal(program) + "\n" == theirs


@needs_tcpdump
def test_expressions_compile_to_what_tcpdump_makes_of_them():
    """Nearly all everyday expressions give tcpdump's very instructions; the two libpcaps may differ in version."""
    texts = EVERYDAY[:40]
    same = [text for text in texts if dump(compile_filter(text)) + "\n" == tcpdump("-d", text)]
    assert len(same) >= len(texts) - 4, set(texts) - set(same)


def test_every_code_has_a_text():
    """A program of each valid code can be printed."""
    program = Program.of([(code, 0, 0, 1) for code in sorted(op.OPCODES - {op.RET})] + [(op.RET, 0, 0, 0)] * 2)
    assert len(dump(program).splitlines()) == len(program)


def test_ebpf_is_printed_as_the_kernel_prints_it():
    """The eBPF of a filter is numbered, has the operation's code in hexadecimal, and jumps by relative places."""
    lines = dump_ebpf(compile_filter("ip")).splitlines()
    assert lines[0] == "   0: (61) r2 = *(u32 *)(r1 +0)"
    assert "   8: (dc) r4 = be16 r4" in lines
    assert any("if w4 != 0x800 goto pc+" in line for line in lines)
    assert lines[-1].endswith("(95) exit")


@pytest.mark.parametrize("text", expressions(120)[60:])
def test_every_translation_can_be_printed(text):
    """No jump in the text leads out of the program."""
    lines = dump_ebpf(compile_filter(text)).splitlines()
    for at, line in enumerate(lines):
        if "goto pc" in line:
            assert 0 <= at + 1 + int(line.split("pc")[1]) < len(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tcp prt 4", "syntax error near 'prt' (column 5)"),
        ("host", "syntax error at its end"),
        ("tcp and", "syntax error at its end"),
        ("(tcp or udp", "syntax error at its end"),
        ("tcp)", "syntax error near ')' (column 4)"),
        ("tcp &&& udp", "syntax error near '&' (column 7)"),
        ("tcp port 80 and (udp or (icmp and net 1.2.3.0/24 prt 5))", "syntax error near 'prt' (column 50)"),
        ("host 1.2.3.4 or or", "syntax error near 'or' (column 17)"),
        ("ip[0", "syntax error at its end"),
        ("ip[0]=", "syntax error at its end"),
        ("ip[0] & 1 == 1 1", "syntax error near '1' (column 16)"),
        ("src dst port 4", "syntax error near 'dst' (column 5)"),
        ("port 99999", "illegal port number 99999 > 65535 near '99999' (column 6)"),
        ("net 10.0.0.0/33", "mask length must be <= 32 near '10.0.0.0/33' (column 5)"),
        ("vlan 5000", "VLAN tag 5000 greater than maximum 4095 near '5000' (column 6)"),
        ("ether host xx", "unknown ether host 'xx' near 'xx' (column 12)"),
        ("tcp[0:3] = 1", "data size must be 1, 2, or 4 near '0:3' (column 5)"),
        ("$", "syntax error near '$' (column 1)"),
        ("ü", "syntax error near 'ü' (column 1)"),
        ("tcp and udp", "expression rejects all packets"),
    ],
)
def test_an_error_says_what_and_where(text, says):
    """A filter that does not parse shows itself, libpcap's message and the place, in one line."""
    with pytest.raises(UsageError) as error:
        compile_filter(text)
    assert error.value.message == f"filter '{text}': {says}"
    assert error.value.hint
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["tcp\0", "\udc80"])
def test_characters_that_no_filter_holds(text):
    """A NUL or a broken character is a usage error."""
    with pytest.raises(UsageError, match="character"):
        compile_filter(text)


def test_the_netmask_is_used():
    """``ip broadcast`` compares with the broadcast address of the netmask that is given."""
    assert any(k == 0xFF for *_, k in compile_filter("ip broadcast", netmask=0xFFFFFF00).rows)
    with pytest.raises(UsageError, match="netmask not known"):
        compile_filter("ip broadcast", netmask=0xFFFFFFFF)


def test_other_link_types():
    """A filter looks at the link type that it is compiled for; one that libpcap does not know is refused."""
    raw_ip = [(op.LD | op.B | op.ABS, 0, 0, 0), (op.ALU | op.AND | op.K, 0, 0, 0xF0)]
    assert compile_filter("ip", linktype=101).rows[:2] == raw_ip
    assert compile_filter("ip", linktype=113).rows[0] == (op.LD | op.H | op.ABS, 0, 0, 14)
    with pytest.raises(UsageError, match="unknown data link type"):
        compile_filter("ip", linktype=9999)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no instructions"),
        ([(0xFF, 0, 0, 0), (6, 0, 0, 0)], "unknown code 0xff"),
        ([(0x15, 1, 0, 0), (6, 0, 0, 0)], "jump out of the program"),
        ([(0x05, 0, 0, 7), (6, 0, 0, 0)], "jump out of the program"),
        ([(0x05, 0, 0, 0xFFFFFFFF), (6, 0, 0, 0)], "jump out of the program"),
        ([(0x34, 0, 0, 0), (6, 0, 0, 0)], "division by the constant 0"),
        ([(0x64, 0, 0, 32), (6, 0, 0, 0)], "shift by 32 bits"),
        ([(0x02, 0, 0, 16), (6, 0, 0, 0)], "no memory word M[16]"),
        ([(0x20, 0, 0, 0xFFFFF000), (6, 0, 0, 0)], "metadata"),
        ([(0x04, 0, 0, 1)], "does not end in a return"),
    ],
)
def test_invalid_programs_are_refused(rows, says):
    """What libpcap's validator refuses is refused, with the instruction."""
    with pytest.raises(UsageError) as error:
        Program.of(rows)
    assert says in error.value.message
