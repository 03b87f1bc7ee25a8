"""What a burst of P packets loses, computed without simulation: figures 9 and 10 in one line."""

from __future__ import annotations


def burst_drop(packets: float, buffered: float, handler_pps: float, arrival_pps: float) -> float:
    """The share of a burst that is lost: max(0, 1 - (B + mu * P / lambda) / P) [derived].

    When the last packet arrives, ``buffered`` packets are waiting and mu * P / lambda have been handled.
    """
    return max(0.0, 1 - (buffered + handler_pps * packets / arrival_pps) / packets)


def burst_survived(buffered: float, handler_pps: float, arrival_pps: float) -> float:
    """The longest burst without loss, in packets: B / (1 - mu / lambda); infinite if the handler keeps up."""
    return float("inf") if handler_pps >= arrival_pps else buffered / (1 - handler_pps / arrival_pps)
