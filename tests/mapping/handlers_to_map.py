"""Handlers that the tests map over files."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np

import wirecap


@wirecap.handler(state={"packets": np.int64, "share": np.float64, "lengths": (np.int64, 8), "seen": np.bool_})
def sums(packet, state):
    state.packets += 1
    state.share += packet.length / 3
    state.lengths[min(packet.length >> 8, 7)] += packet.length
    state.seen = True


def joined(states):
    return sum(state.packets for state in states)


@wirecap.handler(state={"packets": np.int64}, merge=joined)
def merged(packet, state):
    state.packets += 1


@wirecap.packet_handler(state=collections.Counter)
def lengths(timestamp_ns, data, state):
    state[len(data)] += 1


@wirecap.packet_handler(state=list)
def digests(timestamp_ns, data, state):
    state.append((timestamp_ns, len(data)))


@wirecap.packet_handler
def in_order(timestamp_ns, data, file=""):
    with Path(file).open("a") as out:
        out.write(f"{timestamp_ns} {len(data)}\n")


@wirecap.packet_handler(state=collections.Counter)
def deadly(timestamp_ns, data, state, mark="", times=1):
    """Kills its worker, the first few times that a packet of 999 bytes comes."""
    if len(data) == 999 and len(list(Path(mark).iterdir())) < times:
        (Path(mark) / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    state[len(data)] += 1


@wirecap.packet_handler(state=lambda: (number for number in ()))
def cannot_travel(timestamp_ns, data, state):
    pass


@wirecap.packet_handler(state=collections.Counter)
def in_copies(timestamp_ns, data, state):
    """Counts packets by whether the worker is a copy of the process that began the map, and prints each."""
    print(len(data))  # noqa: T201
    state["copy" if multiprocessing.parent_process() else "interpreter"] += 1


@wirecap.packet_handler(state=collections.Counter)
def waiting(timestamp_ns, data, state, mark=""):
    """Says that its worker is there, and waits until a file beside says that it may go on."""
    (Path(mark) / str(os.getpid())).touch()
    while not (Path(mark).parent / "go").exists():
        time.sleep(0.01)
