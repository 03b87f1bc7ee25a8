"""picture.py: make docs/losses.png, the page of a capture that loses packets, as Chromium shows it.

It sends uneven traffic into a testbed: too much for one queue, so that its buddies help, then a burst that no pool of
this size holds.  Needs root and Chromium; ``make picture`` does it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from wirecap.lab import process, testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

NAME = f"wp{os.getpid()}"
PICTURE = Path(__file__).parents[1] / "docs" / "losses.png"
OPTIONS = "-M 256 -R 60 -T 40 --mode advanced --handler pkt_handler:rate=120000"
BURST, BURST_AT_S, DURATION_S, PULSE_S = 150_000, 0.9, 2.4, 0.02
RATES_PPS = {5001: 210_000, 5002: 40_000}
"""Of the flows, each of which a CPU sends to a queue of its own."""


def send(interface: str, port: int, cpu: int, burst: int) -> None:
    """Send a flow in pulses, and in the middle of it a burst."""
    with LiveFrames(interface, synthetic.udp(60, source_port=port), cpu=cpu) as sender:
        begin, sent = time.monotonic(), 0
        while (now := time.monotonic() - begin) < DURATION_S:
            wanted = int(RATES_PPS[port] * now)
            if burst and now > BURST_AT_S:
                sender.send(burst)
                burst = 0
            sender.send(max(1, wanted - sent))
            sent = wanted
            time.sleep(PULSE_S)


def capture(folder: Path) -> Path:
    """The page of the capture."""
    page = folder / "page.html"
    nic = testbed.up(NAME, queues=4).nics[0]
    command = [sys.executable, "-P", "-m", "wirecap", "capture", "--netns", NAME, "-i", nic.inside, "--html", str(page)]
    child = process.Child([*command, *OPTIONS.split()])
    with child:
        child.wait_for("capturing on", 60)
        cpus = sorted(os.sched_getaffinity(0))
        flows = [(5001, cpus[0], BURST), (5002, cpus[-1], 0)]
        senders = [threading.Thread(target=send, args=(nic.outside, *flow)) for flow in flows]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        time.sleep(0.3)
        ended = child.end(signal.SIGINT)
    if ended.status:
        sys.exit(ended.output)
    text = page.read_text().replace(nic.inside, "eth1")
    if "Would have held them" not in text:
        sys.exit("nothing was lost: the burst was too slow for that; try again on an idle machine")
    page.write_text(text)
    return page


def main() -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not browser or os.geteuid():
        sys.exit("needs root and Chromium")
    try:
        with tempfile.TemporaryDirectory() as folder:
            page = capture(Path(folder))
            command = [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--hide-scrollbars", f"--user-data-dir={folder}/profile", "--window-size=1160,1860",
                f"--screenshot={PICTURE}", page.as_uri(),
            ]  # fmt: skip
            subprocess.run(command, check=True, capture_output=True, timeout=90, env=os.environ | {"HOME": folder})
    finally:
        testbed.down(NAME)
    print(f"made {PICTURE}")


if __name__ == "__main__":
    main()
