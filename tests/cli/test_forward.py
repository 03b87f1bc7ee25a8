"""The command line of ``wirecap forward``: what is asked of the engine, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from wirecap import api
from wirecap.cli import main
from wirecap.config.specs import QueueSpec

SUMMARY: dict[str, Any] = {
    "packets": {"received": 9, "delivered": 5, "filtered_out": 1, "written": 0, "forwarded": 5, "offloaded": 2,
                "dropped": 3, "drops": {"tx_ring_full": 3}, "reordered": 1},
    "per_queue": [{"interface": "a", "queue": 0, "received": 9, "delivered": 5, "offloaded": 2, "dropped": 3}],
    "outputs": [{"interface": "b", "queue": 0, "forwarded": 5, "drops": {"tx_ring_full": 3}}],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """What the engine was asked to do."""
    calls: list[tuple[Any, ...]] = []

    def run_capture(*arguments: Any, **_: Any) -> None:
        calls.append(arguments)
        _, _, _, _, tell, *_ = arguments
        tell(SUMMARY, True)

    monkeypatch.setattr(api, "run_capture", run_capture)
    return calls


def run(line: str) -> int:
    return main.run(["forward", *line.split()])


@pytest.mark.parametrize(
    ("line", "ways"),
    [
        ("a b", [("a", ["b"])]),
        ("a b --both", [("a", ["b"]), ("b", ["a"])]),
        ("a b --pair c,d --both", [("a", ["b"]), ("c", ["d"]), ("b", ["a"]), ("d", ["c"])]),
        ("a@0 b --pair a@1,c", [("a@0", ["b"]), ("a@1", ["c"])]),
        ("a c --pair b,c", [("a", ["c"]), ("b", ["c"])]),
        ("a --to b,c,d --balance hosts", [("a", ["b", "c", "d"])]),
    ],
)
def test_from_where_to_where(asked, line, ways):
    """Every direction that a command line names, with its receiving side as a source."""
    assert run(line) == 0
    config, _, _, forward, *_ = asked[0]
    assert [(str(source), [str(target) for target in targets]) for source, targets in forward.directions] == ways
    assert config.sources == tuple(QueueSpec.parse(source) for source, _ in ways)


def test_what_happens_to_checksums(asked):
    """Finished where the interface is virtual, unless the command line says otherwise."""
    assert run("a b") == run("a b --checksums finish") == run("a b --checksums leave") == 0
    assert [forward.checksums for _, _, _, forward, *_ in asked] == ["auto", "finish", "leave"]


def test_words_behind_the_interfaces_are_the_filter(asked):
    """The filter follows the interfaces: two of them, or one with --to."""
    assert run("a b tcp port 443") == run("a --to b,c tcp port 443") == run("a b -f tcp") == 0
    assert [config.filter for config, *_ in asked] == ["tcp port 443", "tcp port 443", "tcp"]


def test_the_closing_lines(asked, capsys):
    """What was sent, what was not and why, what was reordered; with -v for each queue."""
    assert run("a b -v") == 0
    assert capsys.readouterr().err.splitlines() == [
        "5 packets captured",
        "8 packets received by filter",
        "1 packet rejected by filter",
        "2 packets handed to a buddy",
        "5 packets forwarded",
        "1 packet sent out of order",
        "3 packets dropped: tx ring full",
        "a queue 0: 9 received, 5 captured, 2 handed to a buddy, 3 dropped",
        "b transmit queue 0: 5 forwarded, 3 dropped",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "forwarding needs two interfaces"),
        ("a", "forwarding needs two interfaces"),
        ("a a", "a cannot forward to itself"),
        ("a --to a,b", "a cannot forward to itself"),
        ("a --to b,b", "b is named twice"),
        ("a b --pair c,b --both", "b is named twice"),
        ("--to b,c", "--to needs an interface to receive on"),
        ("a --to b,c --both", "--to forwards one way"),
        ("a b --balance hosts", "--balance needs several outputs"),
        ("a b --pair c", "'c' is not a pair of interfaces"),
        ("a b -f tcp udp", "the filter is given twice"),
        ("a b --tx-wait 1h", "the wait for a TX ring must be 0 to 1000 s"),
        ("a b --summary-json /nonexistent/x", "no such folder"),
        ("a b --tx-queue best", "'best' is not known (use same, hash or least)"),
        ("a b --pair a,c", "a is captured twice"),
        (
            "a b -A",
            "-A: forward shows no packets (capture at the other end of the wire: wirecap capture -i INTERFACE --p",
        ),
        ("a b -n -e", "forward shows no packets"),
        (
            "a b -w x",
            "-w: forward writes no file (capture at the other end of the wire: wirecap capture -i INTERFACE -w",
        ),
        ("a b -G 5 -w x", "forward writes no file"),
        ("-i a b", "-i: interfaces are named without it (wirecap forward eth1 eth2)"),
        ("a b -r x", "-r: forward sends what it receives (wirecap replay -i INTERFACE FILE sends a file)"),
        ("a@0,c b", "'a@0,c' is more than one interface (name each on its own: a@0 and c)"),
        ("a b --engine direct --mode advanced", "the direct engine has no advanced mode"),
    ],
)
def test_wrong_usage(asked, capsys, line, message):
    """What cannot be is one line with a hint and status 2, and nothing is opened."""
    assert run(line) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not asked
