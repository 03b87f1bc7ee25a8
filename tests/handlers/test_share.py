"""What the handler share refuses; tests/compat/libpcap/ has what programs read from it."""

from __future__ import annotations

import pytest

from rig import pcap_records
from wirecap.cli import main
from wirecap.errors import UsageError
from wirecap.files.headers import pcap_header
from wirecap.handlers.handler import Setting
from wirecap.handlers.share import Share


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-i", "eth1", "--handler", "share", "--handler", "count"], "handler share lends whole chunks"),
        (["-i", "eth1", "--handler", "share", "-w", "x.pcap"], "handler share lends whole chunks"),
        (["-r", "FILE", "--handler", "share"], "handler share lends packets of an interface"),
    ],
)
def test_what_share_does_not_go_with(arguments, why, capsys, tmp_path):
    """share works alone and on interfaces: anything else is refused in one line, with exit status 2."""
    file = tmp_path / "two.pcap"
    file.write_bytes(pcap_header(65535, 1, False) + pcap_records(2))
    assert main.run(["capture", *(str(file) if word == "FILE" else word for word in arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"wirecap: {why}")


def test_share_has_no_options():
    """An option that the handler share does not know is named."""
    with pytest.raises(UsageError, match="handler share has no option 'x'"):
        Share.make({"x": "1"}, Setting())
