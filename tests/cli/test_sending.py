"""``replay`` and ``generate``: bad usage is one line with a hint; what is said at the end adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from wirecap.cli import generate, main, replay, sending
from wirecap.cli.sending import Mark, closing_lines, left_out, render, summary
from wirecap.errors import UsageError
from wirecap.traffic.launch_sender import Launches
from wirecap.traffic.session import Outcome


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay"], "no file to replay"),
        (["replay", "x.pcap"], "no interface to send on"),
        (["replay", "-i", "lo", "/nonexistent.pcap"], "no such file"),
        (["replay", "-i", "nonesuch0", "x.pcap"], "no interface 'nonesuch0'"),
        (["replay", "-i", "lo", "-p", "10", "-t", "x.pcap"], "--pps and --topspeed cannot be combined"),
        (["replay", "-i", "lo", "-x", "0", "x.pcap"], "'0' is not a speed factor"),
        (["replay", "-i", "lo", "-p", "0", "x.pcap"], "use --topspeed to send as fast as possible"),
        (["replay", "-i", "lo", "-p", "5 apples", "x.pcap"], "unknown unit 'apples'"),
        (["replay", "-i", "lo", "--dmac", "02:00", "x.pcap"], "not an Ethernet address"),
        (["replay", "-i", "lo", "--queues", "3-1", "x.pcap"], "the range 3-1 runs backwards (write it as 1-3)"),
        (["replay", "-i", "lo", "--burst", "4", "x.pcap"], "--burst needs a rate"),
        (["replay", "-I", "eth1", "x.pcap"], "no interface to send on"),
        (["replay", "-i", "lo", "-c", "a.cache", "x.pcap"], "--cachefile needs a second interface"),
        (["replay", "-i", "lo", "--dmac", "02:00:00:00:00:01,02:00:00:00:00:02", "x.pcap"], "two Ethernet addresses"),
        (["replay", "-i", "lo", "--unique-ip", "x.pcap"], "from the second loop on (add --loop N)"),
        (["replay", "-i", "lo", "--unique-ip-loops", "2", "-l", "5", "x.pcap"], "--unique-ip-loops needs --unique-ip"),
        (["replay", "-i", "lo", "-2", "a.pcap", "b.pcap"], "mergecap"),
        (["replay", "-i", "lo", "--ttl=3", "x.pcap"], "tcprewrite"),
        (["replay", "-i", "lo", "--queue-by", "symmetric", "x.pcap"], "--queue-by needs several queues"),
        (["replay", "-i", "lo", "--queues", "1", "--rss-table", "0,0", "x.pcap"], "--rss-table needs several queues"),
        (
            ["replay", "-i", "lo", "--queues", "0,1", "--queue-by", "recorded", "--rss-table", "0,1", "x.pcap"],
            "--rss-table and --queue-by recorded cannot be combined",
        ),
        (["replay", "-i", "lo", "--queues", "0,1", "--rss-table", "a,b", "x.pcap"], "not an indirection table"),
        (["replay", "-i", "lo", "-p", "0.0000001", "x.pcap"], "the rate is too low: 1e-07 packets per second"),
        (["replay", "-i", "lo", "--summary-json", "/nonesuch/x.json", "x.pcap"], "no such folder"),
        (["replay", "-i", "lo", "--max-gap", "5", "--pps", "5", "x.pcap"], "a recording's own pauses"),
        (["replay", "-i", "nosuch0,lo", "x.pcap"], "no interface 'nosuch0,lo' (name each on its own: nosuch0 and lo)"),
        (["replay", "-i", "lo", "--loop-delay", "5", "x.pcap"], "without --loop (leave it out, or add --loop N)"),
        (["generate", "-i", "lo", "--queues", "0-3"], "a single flow uses only one queue"),
        (["generate", "-i", "lo", "--zipf", "1"], "--zipf needs more than one flow"),
        (["generate", "-i", "lo", "--size", "huge"], "not a frame size"),
        (["generate", "-i", "lo", "--link", "10GbT"], "unknown link: '10GbT'"),
        (["generate", "-i", "lo", "--shares", "1,2"], "--shares needs queues"),
        (["generate", "-i", "lo", "--profile", "border-router", "--pps", "5"], "its own rates"),
        (["replay", "-i", "lo", "-L", "0", "x.pcap"], "--limit 0 would send nothing"),
        (["generate", "-i", "lo", "-c", "0"], "--count 0 would send nothing"),
        (["generate", "-i", "lo", "--flows", "0"], "unsupported number of flows: 0"),
        (["generate", "-i", "lo", "--launch-time", "on"], "at full speed packets have no times"),
        (["generate", "-i", "lo", "--pps", "5", "--launch-time", "on"], "--launch-time: the loopback interface"),
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
        way="x", attempted=1001, sent=991, bytes=59_460, duration_s=2.0, planned_s=1.0, latest_ns=1_500_000,
        refused=10, not_sent={"longer than the MTU": 3}, cut_by_capture=1, per_queue={0: 400, 2: 591},
    )  # fmt: skip
    assert closing_lines(outcome, 1500, verbose=True) == [
        "991 packets sent, 58.1 KiB in 2 s: 495 p/s, 238 kbit/s",
        "wanted 1 kp/s, achieved 500 p/s (-50.000 %); the latest packet was 1.5 ms late",
        "3 packets not sent: longer than the MTU (1500 bytes)",
        "10 packets not sent: dropped by the interface",
        "1 packet sent truncated, as in the file (its snap length)",
        "queue 0: 400 packets sent",
        "queue 2: 591 packets sent",
    ]


def test_what_was_left_out_in_one_line() -> None:
    """Of one reason as among the closing lines; of several with their numbers."""
    outcome = Outcome(sent=1, not_sent={"longer than the MTU": 3})
    assert left_out(outcome, 1500) == "3 packets not sent: longer than the MTU (1500 bytes)"
    outcome.not_sent["a netlink message"] = 1
    assert left_out(outcome, 1500) == "4 packets not sent: 3 longer than the MTU (1500 bytes), 1 a netlink message"


@pytest.mark.parametrize(
    ("nic", "said"),
    [
        (
            Launches(100, -12, 31, 80),
            "by the NIC's own stamps 31 ns late on average, between 12 ns early and 80 ns late",
        ),
        (
            Launches(1, 4000, 4000, 4000),
            "by the NIC's own stamps of 1 packet 4 us late on average, between 4 us late and 4 us late",
        ),
        (Launches(0), "the NIC stamped none of them; the latest packet was handed to it 5 us late"),
    ],
)
def test_a_nics_stamps_make_the_statistic(nic: Launches, said: str) -> None:
    """Where the NIC kept the times the line says so, and of how many packets it told."""
    outcome = Outcome(
        attempted=100, sent=100, bytes=6000, duration_s=0.99, planned_s=0.99, latest_ns=nic.latest_ns or 5000, nic=nic
    )
    assert closing_lines(outcome, 1500)[1] == f"wanted 100 p/s, achieved 100 p/s (+0.000 %); {said}"
    assert summary(outcome)["nic"]["stamped"] == nic.stamped


def test_closing_lines_of_two_interfaces_and_a_lost_link() -> None:
    """The packets of each interface, why the rest was not sent, what was changed, and times that are out of reach."""
    outcome = Outcome(
        attempted=60, sent=50, bytes=3000, duration_s=1.0, refused=950, reason="no carrier", all_counted=False,
        notes={"without VLAN tags": 2}, per_interface={"eth1": 20, "eth2": 30}, outside=3,
    )  # fmt: skip
    assert closing_lines(outcome, "1500 and 9000") == [
        "50 packets sent, 2.93 KiB in 1 s: 50 p/s, 24 kbit/s",
        "950 packets and the rest not sent: no carrier",
        "2 packets sent without VLAN tags",
        "eth1: 20 packets sent",
        "eth2: 30 packets sent",
        "3 packets are from before 1677 or after 2262: the nearest time that 64-bit nanoseconds can hold is taken",
    ]
    assert (summary(outcome)["asked_for"], summary(outcome)["rate_pps"]) == (1000, 50)


@pytest.mark.parametrize(("packets", "burst", "last_due_s"), [(10, 1, 0.9), (40, 20, 1.0), (45, 20, 2.0)])
def test_rate_of_a_few_packets_is_the_wanted_one(packets: int, burst: int, last_due_s: float) -> None:
    """A run that is exactly on time has the wanted rate, however few its packets: the time ends with the last burst."""
    wanted_pps = 10.0 if burst == 1 else 20.0
    outcome = Outcome(attempted=packets, sent=packets, bytes=60, duration_s=last_due_s, planned_s=last_due_s)
    found = summary(outcome, burst)
    assert (found["rate_pps"], found["wanted_pps"]) == pytest.approx((wanted_pps, wanted_pps))
    wanted = f"wanted {wanted_pps:g} p/s, achieved {wanted_pps:g} p/s (+0.000 %)"
    assert closing_lines(outcome, 1500, burst)[1].startswith(wanted)


def test_full_speed_has_no_wanted_rate() -> None:
    """At full speed every packet counts, and there is no second line; where nothing was sent there is no rate."""
    outcome = Outcome(attempted=1000, sent=1000, bytes=60_000, duration_s=0.5)
    assert closing_lines(outcome, 1500) == ["1000 packets sent, 58.6 KiB in 500 ms: 2 kp/s, 960 kbit/s"]
    assert summary(outcome)["wanted_pps"] is None
    assert closing_lines(Outcome(planned_s=0.0), 1500) == ["0 packets sent, 0 bytes in 0 ns"]


def test_progress_line() -> None:
    """A bar where the end is known, rates since the last line, what was sent so far."""
    outcome = Outcome(sent=3000, bytes=180_000, duration_s=3.0, share=0.5)
    now, since = Mark(7.0, 3000, 180_000), Mark(6.0, 1000, 60_000)
    assert render(outcome, now, since) == "[==========          ]  50%  2 kp/s  960 kbit/s  3,000 sent  3 s"
    outcome.share = None
    assert render(outcome, now, since).startswith("2 kp/s")
    assert "  0 p/s  0 bit/s  3,000 sent" in f"  {render(outcome, now, Mark(6.0, 3001, 180_060))}"


def test_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no capture file is refused before anything is sent."""
    file = tmp_path / "a.pcap"
    file.write_text("hello, world: no packets here")
    assert main.run(["replay", "-i", "lo", str(file)]) == 2
    assert "not a capture file" in capsys.readouterr().err
