"""Long lists as sets: beside libpcap on the whole expression, in each form in which a filter runs."""

from __future__ import annotations

import ipaddress
import random
import re
import time

import numpy as np
import pytest
from filter_corpus import kernel_says, libpcap_says, why_not
from long_lists import V4, V6, Lists

from wirecap.errors import UsageError
from wirecap.filters import libpcap
from wirecap.filters.dump import dump, dump_decimal, dump_ebpf
from wirecap.filters.ebpf import set_map, standalone
from wirecap.filters.expand import plain
from wirecap.filters.expression import compile_filter
from wirecap.filters.in_socket import fits
from wirecap.filters.lists import SHORTEST, shortened
from wirecap.filters.native import NativeFilter
from wirecap.filters.program import Program
from wirecap.kernels.base import jit
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.handlers.filter import select
from wirecap.linux import bpf
from wirecap.linux.asm import assemble


def whole(text: str, linktype: int = 1) -> Program:
    """The expression as libpcap compiles it."""
    rows, message, _ = libpcap.compile(text, linktype, 262144, False, 0)
    assert not message, message
    return Program.of(rows)


@pytest.mark.parametrize("seed", range(25))
def test_lists_mean_what_they_mean_to_libpcap(seed):
    """Random lists of hosts, networks, ports and MAC addresses, alone or inside an expression, on random packets."""
    lists = Lists(seed)
    text = lists.expression()
    program, theirs = compile_filter(text), whole(text)
    assert program.sets
    assert len(program) < len(theirs)
    packets = lists.uncut(320)
    wanted = [libpcap_says(theirs, packet) for packet in packets]
    assert [libpcap_says(plain(program), packet) for packet in packets] == wanted


@pytest.mark.parametrize("way", ["src and dst", "dst && src", "src or dst", "ip src and dst"])
@pytest.mark.parametrize("type", ["host", "net"])
def test_a_list_behind_both_ends(way, type):
    """Values that take over ``src and dst`` keep it, also where a list of another kind follows."""
    text = f"{way} {type} 10.0.0.1 or 10.0.0.2 or " + " or ".join(f"dst {type} 10.0.0.{at}" for at in range(3, 45))
    program, theirs = compile_filter(text), whole(text)
    assert program.sets
    one, two, three, other = (ipaddress.IPv4Address(at) for at in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "1.1.1.1"))
    packets = [ipv4(*pair) for pair in ((other, two), (two, other), (two, two), (one, two), (other, three))]
    wanted = [libpcap_says(theirs, packet) for packet in packets]
    assert wanted == ([True] * 5 if "or dst" in way else [False, False, True, False, True])
    assert [libpcap_says(plain(program), packet) for packet in packets] == wanted


@pytest.mark.parametrize(
    "head", ["host", "src host", "dst net", "tcp port", "src or dst port", "ip host", "net", "dst port; src host; net"]
)
@pytest.mark.parametrize("form", ["{}", "tcp and not ({})", "{} or len > 30", "not ({})"])
def test_packets_that_are_cut_off(head, form):
    """A packet that ends before or inside what is compared is rejected where libpcap rejects it."""
    lists = Lists(len(head + form))
    members = []
    for one in head.split("; "):
        values = range(20, 90) if "port" in one else V4
        members += [f"{one} {lists.random.choice(values)}" for _ in range(60)]
    text = form.format(" or ".join(members))
    program, theirs = compile_filter(text), whole(text)
    assert program.sets
    for _ in range(40):
        packet = lists.packet()
        for end in range(1, len(packet) + 1):
            assert libpcap_says(plain(program), packet[:end]) == libpcap_says(theirs, packet[:end])


@pytest.mark.parametrize("head", ["host", "src host", "dst host", "net", "src net"])
def test_ipv6_packets_that_are_cut_off(head):
    """Only one that is cut inside its destination, and has a source of the list, is decided otherwise: accepted."""
    prefix = 127 if "net" in head else 128
    nets = list({ipaddress.IPv6Network((value, prefix), strict=False): None for value in V6[1::2]})
    text = " or ".join(f"{head} {net if 'net' in head else net[0]}" for net in nets)
    program, theirs = compile_filter(text), whole(text)
    assert program.sets
    program = plain(program)
    for source in [*V6[::3], ipaddress.IPv6Address("2001:db8:9::1")]:
        for target in [*V6[::5], ipaddress.IPv6Address("2001:db8:9::1")]:
            packet = bytes(12) + b"\x86\xdd\x60" + bytes(7) + source.packed + target.packed + bytes(20)
            for end in range(14, len(packet)):
                ours, says = (libpcap_says(one, packet[:end]) for one in (program, theirs))
                may_differ = " " not in head and 38 < end < 54 and any(source in net for net in nets)
                assert ours == says or (may_differ and ours)


@pytest.mark.parametrize(("linktype", "before"), [(113, 16), (101, 0), (276, 20), (0, 4)])
def test_other_link_types(linktype, before):
    """Cooked packets, raw IP and loopback: the sets stand where libpcap compares."""
    random.seed(linktype)
    values = random.sample(V4, 60)
    text = " or ".join(f"host {value}" for value in values)
    dlt = {101: 12}.get(linktype, linktype)
    program, theirs = compile_filter(text, linktype), whole(text, dlt)
    assert program.sets
    header = {16: bytes(14) + b"\x08\0", 0: b"", 20: b"\x08\0" + bytes(18), 4: b"\2\0\0\0"}[before]
    for value in V4:
        for ends in (value.packed + b"\1\1\1\1", b"\1\1\1\1" + value.packed):
            packet = header + b"\x45" + bytes(11) + ends + bytes(20)
            assert libpcap_says(plain(program), packet) == libpcap_says(theirs, packet) == (value in values)


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(3 if PURE else 12))
def test_the_native_filter_finds_what_is_in_the_sets(seed):
    """The native filter accepts the packets that libpcap accepts, and of cut ones those that the program does."""
    jit.prepare([select])
    lists = Lists(seed)
    text = lists.expression()
    program, theirs = compile_filter(text), whole(text)
    packets = lists.uncut(30 if PURE else 500)
    wanted = [libpcap_says(theirs, packet) for packet in packets]
    cut = [lists.packet() for _ in range(10 if PURE else 100)]
    packets += cut
    wanted += [libpcap_says(plain(program), packet) for packet in cut]
    captured = np.array([len(packet) for packet in packets], np.uint32)
    arena = np.frombuffer(b"".join(packets) + bytes(300), np.uint8).copy()
    rows = [np.cumsum(captured, dtype=np.int64) - captured, captured, captured.copy(), np.arange(len(packets))]
    compiled = NativeFilter(program)
    m = compiled.process(arena, *rows, len(packets), compiled.state)
    assert rows[3][:m].tolist() == np.flatnonzero(wanted).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_the_kernel_finds_what_is_in_the_maps(seed):
    """Inside the XDP program sets are a hash map, and the packets match that libpcap accepts."""
    if why_not():
        pytest.skip(f"no XDP program can be loaded: {why_not()}")
    lists = Lists(seed)
    text = lists.expression()
    program, theirs = compile_filter(text), whole(text)
    sets = set_map(program)
    assert sets
    loaded = bpf.Program(assemble(standalone(program, sets.fd)))
    for packet in lists.uncut(200):
        assert kernel_says(loaded, packet) == libpcap_says(theirs, packet)
    loaded.close()
    sets.close()


def test_the_kernel_takes_networks_of_every_length():
    """IPv6 networks of 49 lengths are more sets than a program may have maps (64)."""
    if why_not():
        pytest.skip(f"no XDP program can be loaded: {why_not()}")
    random.seed(64)
    prefixes = [16 + at % 49 for at in range(600)]
    nets = [ipaddress.IPv6Network((random.getrandbits(128), prefix), strict=False) for prefix in prefixes]
    program = compile_filter(" or ".join(f"net {net}" for net in nets))
    assert len(program.sets) > 64
    sets = set_map(program)
    assert sets
    loaded = bpf.Program(assemble(standalone(program, sets.fd)))
    for net in nets[:98]:
        inside = ipaddress.IPv6Address(int(net[0]) | random.getrandbits(128 - net.prefixlen))
        outside = ipaddress.IPv6Address(int(inside) ^ 1 << (128 - net.prefixlen))
        for address in (inside, outside):
            wanted = any(address in other for other in nets)
            packet = bytes(12) + b"\x86\xdd\x60" + bytes(7) + bytes(16) + address.packed + bytes(20)
            assert kernel_says(loaded, packet) == wanted
    loaded.close()
    sets.close()


def ipv4(source: ipaddress.IPv4Address, target: ipaddress.IPv4Address) -> bytes:
    return bytes(12) + b"\x08\0\x45" + bytes(8) + b"\6" + bytes(2) + source.packed + target.packed + bytes(20)


@pytest.mark.parametrize("form", ["{}", "tcp and not ({})"])
@pytest.mark.parametrize("kind", ["hosts", "nets"])
def test_thousands_of_members(form, kind):
    """5,000 hosts, or networks of every length, are compiled at once, and the right packets match."""
    jit.prepare([select])
    random.seed(form + kind)
    addresses = [ipaddress.IPv4Address(random.getrandbits(32)) for _ in range(5000)]
    prefixes = [32 if kind == "hosts" else random.randint(17, 32) for _ in addresses]
    nets = [ipaddress.ip_network((at, prefix), strict=False) for at, prefix in zip(addresses, prefixes, strict=True)]
    members = " or ".join(f"host {net[0]}" if kind == "hosts" else f"net {net}" for net in nets)
    started = time.process_time()
    program = compile_filter(form.format(members))
    compiled = NativeFilter(program)
    assert time.process_time() - started < 20
    inside = [net[random.randrange(net.num_addresses)] for net in random.sample(nets, 60)]
    known = {(int(net[0]), net.prefixlen) for net in nets}

    def is_member(address: ipaddress.IPv4Address) -> bool:
        return any((int(address) >> (32 - p) << (32 - p), p) in known for p in range(17, 33))

    other = [ipaddress.IPv4Address(random.getrandbits(32)) for _ in inside]
    pairs = zip(inside, other, strict=True)
    packets = [ipv4(*pair) for one, two in pairs for pair in ((one, two), (two, one), (two, two))]
    wanted = [any(is_member(ipaddress.IPv4Address(packet[at : at + 4])) for at in (26, 30)) for packet in packets]
    wanted = [one != (form != "{}") for one in wanted]
    assert len(set(wanted)) == 2
    assert [libpcap_says(plain(program), packet) for packet in packets] == wanted
    size = len(packets[0])
    rows = [np.arange(len(packets)) * size, np.full(len(packets), size, np.uint32)]
    rows += [rows[1].copy(), np.arange(len(packets))]
    arena = np.frombuffer(b"".join(packets) + bytes(300), np.uint8).copy()
    m = compiled.process(arena, *rows, len(packets), compiled.state)
    assert rows[3][:m].tolist() == np.flatnonzero(wanted).tolist()


def short_list(head: str, values: list[str], joiner: str = " or ") -> str:
    return joiner.join(f"{head} {value}" for value in values)


HOSTS = [f"10.0.0.{at}" for at in range(SHORTEST)]


@pytest.mark.parametrize(
    "text",
    [
        short_list("host", HOSTS[1:]),  # too short
        short_list("src and dst host", HOSTS),  # both ends are the same member
        short_list("not host", HOSTS),  # everything, nearly
        short_list("host", HOSTS, " and "),
        short_list("vlan", [str(at) for at in range(1, 50)]),  # each moves the next one
        short_list("portrange", [f"{at}-{at + 5}" for at in range(1, 50)]),
        short_list("ip[12:4] =", [str(at) for at in range(1, 50)]),
        short_list("ether proto", [str(at) for at in range(1, 50)]),
    ],
)  # fmt: skip
def test_what_is_no_list_is_left_to_libpcap(text):
    """Only members that differ in nothing but their value, joined so that any of them decides, are taken for a list."""
    assert shortened(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (short_list("host", HOSTS * 30) + " or or tcp", "syntax error near 'or'"),
        (short_list("host", HOSTS * 30) + " and prt 4", "unknown host 'prt' near 'prt' (column 16982)"),
        (short_list("net", [f"10.0.{at}.0/24" for at in range(900)][:250]) + " or net 10.0.0.1/8", "non-network bits"),
        (short_list("port", [str(at) for at in range(900)]) + " or port 99999", "illegal port number 99999"),
        (short_list("ip6 host", HOSTS * 30), "'ip6' modifier applied to ip host"),
    ],
)
def test_errors_in_long_lists(text, says):
    """What is wrong in or beside a long list is said as for a short one, and soon."""
    started = time.process_time()
    with pytest.raises(UsageError, match=re.escape(says)):
        compile_filter(text)
    assert time.process_time() - started < 60


def test_long_lists_are_printed():
    """-d and -ddd print programs of the kernel's kind, -dd the eBPF program with its sets."""
    program = compile_filter(short_list("host", [f"10.0.{at // 250}.{at % 250}" for at in range(1000)]))
    count, *rows = dump_decimal(program).splitlines()
    assert int(count) == len(rows) == len(dump(program).splitlines())
    Program.of([tuple(map(int, row.split())) for row in rows])  # which refuses what libpcap does not know
    lines = dump_ebpf(program).splitlines()
    assert sum("= sets" in line for line in lines) == 6  # of IP, ARP and RARP, source and destination
    assert len(lines) < 300


def test_a_socket_takes_lists_that_fit():
    """A list of 1,000 source addresses fits a packet socket, which takes 4,096 instructions, one of 5,000 does not."""
    for count, taken in ((1000, True), (5000, False)):
        text = short_list("src host", [f"10.0.{at // 250}.{at % 250}" for at in range(count)])
        assert fits(plain(compile_filter(text))) == taken
