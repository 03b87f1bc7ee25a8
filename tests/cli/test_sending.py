"""``replay`` and ``generate``: bad usage is one line with a hint; what is said at the end adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from wirecap.cli import generate, main, replay, sending
from wirecap.cli.sent import Mark, closing_lines, render, summary
from wirecap.errors import UsageError
from wirecap.traffic.session import Outcome


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "no file to replay"),
        (["replay", "x.pcap"], "no interface to send on"),
        (["replay", "-i", "lo", "/nonexistent.pcap"], "no such file"),
        (["replay", "-i", "nonesuch0", "x.pcap"], "no interface 'nonesuch0'"),
        (["replay", "-i", "lo", "-p", "10", "-t", "x.pcap"], "--pps and --topspeed do not go together"),
        (["replay", "-i", "lo", "-x", "0", "x.pcap"], "'0' is no factor"),
        (["replay", "-i", "lo", "-p", "0", "x.pcap"], "--topspeed is as fast as possible"),
        (["replay", "-i", "lo", "-p", "5 apples", "x.pcap"], "no unit 'apples'"),
        (["replay", "-i", "lo", "--dmac", "02:00", "x.pcap"], "no Ethernet address"),
        (["replay", "-i", "lo", "--queues", "3-1", "x.pcap"], "is empty"),
        (["replay", "-i", "lo", "--burst", "4", "x.pcap"], "--burst without a rate"),
        (["replay", "-I", "eth1", "x.pcap"], "one interface"),
        (["replay", "-i", "lo", "--queue-by", "symmetric", "x.pcap"], "no queue to choose"),
        (["replay", "-i", "lo", "--queues", "1", "--rss-table", "0,0", "x.pcap"], "no queue to choose"),
        (
            ["replay", "-i", "lo", "--queues", "0,1", "--queue-by", "recorded", "--rss-table", "0,1", "x.pcap"],
            "do not go together",
        ),
        (["replay", "-i", "lo", "--queues", "0,1", "--rss-table", "a,b", "x.pcap"], "no indirection table"),
        (["replay", "-i", "lo", "-p", "0.0000001", "x.pcap"], "packets a second"),
        (["replay", "-i", "lo", "--summary-json", "/nonesuch/x.json", "x.pcap"], "no such folder"),
        (["replay", "-i", "lo", "--max-gap", "5", "--pps", "5", "x.pcap"], "pauses of a recording"),
        (["replay", "-i", "lo", "--loop-delay", "5", "x.pcap"], "without --loop"),
        (["replay", "-i", "lo", "--loop-delay", "5", "--loop", "2", "-t", "x.pcap"], "at full speed"),
        (["generate", "-i", "lo", "--queues", "0-3"], "one flow is on one queue"),
        (["generate", "-i", "lo", "--zipf", "1"], "--zipf of one flow"),
        (["generate", "-i", "lo", "--size", "huge"], "no frame size"),
        (["generate", "-i", "lo", "--link", "10GbT"], "no link"),
        (["generate", "-i", "lo", "--shares", "1,2"], "--shares of no queues"),
        (["generate", "-i", "lo", "--profile", "border-router", "--pps", "5"], "its own rates"),
        (["generate", "-i", "lo", "--flows", "0"], "0 flows"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mistake ends with status 2 and one line that names it; nothing is sent."""
    assert main.run(arguments) == 2
    printed = capsys.readouterr()
    assert message.lower() in printed.err.lower()
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("command", [replay.command, generate.command])
def test_help_has_every_option(command: object) -> None:
    """The help lists the options by section, with tcpreplay's names."""
    text = CliRunner().invoke(command, ["--help"]).output  # type: ignore[arg-type]
    assert all(flag in text for flag in ("--intf1", "--pps", "--mbps", "--topspeed", "--duration", "--send"))


def test_parsers() -> None:
    """Addresses with colons or dashes, Mbit/s without a unit, links by name."""
    assert sending.parse_mac("02:00:00:00:00:0a") == sending.parse_mac("02-00-00-00-00-0A") == b"\2\0\0\0\0\n"
    assert sending.parse_mbps("9.5") == 9_500_000
    assert sending.parse_mbps("1Gbps") == 10**9
    assert generate.parse_link("10GbE") == generate.parse_link("10g") == 10**10
    with pytest.raises(UsageError):
        sending.parse_mac("02:00:00:00:00:0g")


def test_closing_lines_name_everything() -> None:
    """Sent, the rate against the wanted one, the largest delay, and every packet that was not sent by its reason."""
    outcome = Outcome(
        way="x", attempted=1001, sent=991, octets=59_460, duration_s=2.0, planned_s=1.0, latest_ns=1_500_000,
        refused=10, not_sent={"longer than the MTU": 3}, cut_by_capture=1, per_queue={0: 400, 2: 591},
    )  # fmt: skip
    assert closing_lines(outcome, 1500, verbose=True) == [
        "991 packets sent, 58.1 KiB in 2 s: 495 p/s, 238 kbit/s",
        "wanted 1 kp/s, achieved 500 p/s (-50.000 %); the latest packet was 1.5 ms late",
        "3 packets not sent: longer than the MTU (1500 bytes)",
        "10 packets not sent: dropped by the interface",
        "1 packet sent as far as the file has them (its snap length)",
        "queue 0: 400 packets sent",
        "queue 2: 591 packets sent",
    ]


@pytest.mark.parametrize(("packets", "burst", "last_due_s"), [(10, 1, 0.9), (40, 20, 1.0), (45, 20, 2.0)])
def test_rate_of_a_few_packets_is_the_wanted_one(packets: int, burst: int, last_due_s: float) -> None:
    """A run that is exactly on time has the wanted rate, however few its packets: the time ends with the last burst."""
    wanted_pps = 10.0 if burst == 1 else 20.0
    outcome = Outcome(attempted=packets, sent=packets, octets=60, duration_s=last_due_s, planned_s=last_due_s)
    found = summary(outcome, burst)
    assert (found["rate_pps"], found["wanted_pps"]) == pytest.approx((wanted_pps, wanted_pps))
    wanted = f"wanted {wanted_pps:g} p/s, achieved {wanted_pps:g} p/s (+0.000 %)"
    assert closing_lines(outcome, 1500, burst)[1].startswith(wanted)


def test_full_speed_has_no_wanted_rate() -> None:
    """At full speed every packet counts, and there is no second line; where nothing was sent there is no rate."""
    outcome = Outcome(attempted=1000, sent=1000, octets=60_000, duration_s=0.5)
    assert closing_lines(outcome, 1500) == ["1000 packets sent, 58.6 KiB in 500 ms: 2 kp/s, 960 kbit/s"]
    assert summary(outcome)["wanted_pps"] is None
    assert closing_lines(Outcome(planned_s=0.0), 1500) == ["0 packets sent, 0 bytes in 0 ns"]


def test_progress_line() -> None:
    """A bar where the end is known, rates since the last line, what was sent so far."""
    outcome = Outcome(sent=3000, octets=180_000, duration_s=3.0, share=0.5)
    now, since = Mark(7.0, 3000, 180_000), Mark(6.0, 1000, 60_000)
    assert render(outcome, now, since) == "[==========          ]  50%  2 kp/s  960 kbit/s  3,000 sent  3 s"
    outcome.share = None
    assert render(outcome, now, since).startswith("2 kp/s")


def test_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no capture file is refused before anything is sent."""
    file = tmp_path / "a.pcap"
    file.write_text("hello, world: no packets here")
    assert main.run(["replay", "-i", "lo", str(file)]) == 2
    assert "not a capture file" in capsys.readouterr().err
