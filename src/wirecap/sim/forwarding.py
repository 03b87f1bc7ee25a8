"""What it takes to send a handled packet on."""

from __future__ import annotations

from wirecap.sim.workload import interval_ps, wire_rate_pps

FORWARD_PS = 200_000
"""What forwarding a packet adds to its handling: two descriptors and their doorbell's share [derived]."""
LINK_BPS = 10e9


def transmit_ps(frame_bytes: int) -> int:
    """What a frame takes on the outgoing NIC's wire; all queues share it."""
    return interval_ps(wire_rate_pps(LINK_BPS, frame_bytes))


TRANSMIT_PS = transmit_ps(64)
