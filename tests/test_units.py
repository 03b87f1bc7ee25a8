from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecap import units
from wirecap.errors import UsageError


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_size, "0", 0),
        (units.parse_size, "1500", 1500),
        (units.parse_size, "64MiB", 67108864),
        (units.parse_size, "2KB", 2000),
        (units.parse_size, "2 kib", 2048),
        (units.parse_size, "1.5GiB", 1610612736),
        (units.parse_size, "100M", 100_000_000),
        (units.parse_count, "10k", 10_000),
        (units.parse_count, "1M", 1_000_000),
        (units.parse_packet_rate, "2.5Mpps", 2_500_000),
        (units.parse_packet_rate, "1Mp/s", 1_000_000),
        (units.parse_packet_rate, "38844", 38_844),
        (units.parse_mean_rate, "0.25", 0.25),
        (units.parse_mean_rate, "2.5Mpps", 2_500_000),
        (units.parse_bit_rate, "10Gbps", 10_000_000_000),
        (units.parse_bit_rate, "100Mbit/s", 100_000_000),
        (units.parse_duration_ns, "1ms", 1_000_000),
        (units.parse_duration_ns, "30s", 30_000_000_000),
        (units.parse_duration_ns, "30", 30_000_000_000),
        (units.parse_duration_ns, "0.5", 500_000_000),
        (units.parse_duration_ns, "5m", 300_000_000_000),
        (units.parse_duration_ns, "2h", 7_200_000_000_000),
        (units.parse_duration_ns, "250us", 250_000),
        (units.parse_duration_ns, "250µs", 250_000),
        (units.parse_percent, "60", 60),
        (units.parse_percent, "100%", 100),
    ],
)
def test_known_forms(parse, text, value):
    """Each unit means what the field takes it to mean."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "form"),
    [
        (units.parse_size, "64MiB"),
        (units.parse_count, "10k"),
        (units.parse_packet_rate, "2.5Mp/s"),
        (units.parse_mean_rate, "0.25"),
        (units.parse_bit_rate, "10G"),
        (units.parse_duration_ns, "1ms"),
        (units.parse_percent, "60%"),
    ],
)
@pytest.mark.parametrize(
    "text", ["", "-1", "ten", "5 parsec", "1e400", "0x10", "1.2.3", "nan", "inf", "1.0000000001ns", "9" * 40]
)
def test_refusal_names_the_forms(parse, form, text):
    """What is no number with a known unit is refused, in words that show the accepted forms."""
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert form in refused.value.hint
    assert repr(text) in refused.value.message


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused(text):
    """No text makes a parser fail in another way than by UsageError."""
    for parse in (
        units.parse_size,
        units.parse_count,
        units.parse_packet_rate,
        units.parse_mean_rate,
        units.parse_bit_rate,
        units.parse_duration_ns,
        units.parse_percent,
    ):
        try:
            value = parse(text)
        except UsageError:
            continue
        assert 0 <= value < 2**63


@given(st.integers(0, 10**15))
def test_human_forms_are_close(value):
    """What is shown to people is within one percent of the number."""
    assert units.parse_size(units.format_size(value).replace("bytes", "").replace("byte", "")) == pytest.approx(
        value, rel=0.01, abs=1
    )
    assert units.parse_packet_rate(units.format_packet_rate(value)) == pytest.approx(value, rel=0.01)
    assert units.parse_bit_rate(units.format_bit_rate(value)) == pytest.approx(value, rel=0.01)


@given(st.integers(1, 59 * 10**9))
def test_short_durations_are_close(value):
    """A duration under a minute is shown within one percent, in a form that reads back."""
    assert units.parse_duration_ns(units.format_duration_ns(value)) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (units.format_size(52428800), "50 MiB"),
        (units.format_size(1), "1 byte"),
        (units.format_size(1023), "1023 bytes"),
        (units.format_packet_rate(2_449_000), "2.45 Mp/s"),
        (units.format_packet_rate(999_700), "1 Mp/s"),
        (units.format_bit_rate(0), "0 bit/s"),
        (units.format_duration_ns(125 * 10**9), "2:05"),
        (units.format_duration_ns(3603 * 10**9), "1:00:03"),
        (units.format_duration_ns(1_500_000_000), "1.5 s"),
        (units.format_duration_ns(59_990_000_000), "1:00"),
        (units.format_count(20_000_000), "20,000,000"),
    ],
)
def test_shown_forms(value, shown):
    """Numbers are shown short, with the unit."""
    assert value == shown
