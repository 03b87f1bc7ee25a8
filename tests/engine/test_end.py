"""Who is told that a thread has ended."""

from __future__ import annotations

import wirecap
from wirecap.engine.engine import Engine
from wirecap.engine.threads import Worker


def test_a_thread_is_over_when_it_says_so():
    """What is called at a thread's end sees that it is over, although the thread itself still lives."""
    seen: list[bool] = []
    worker = Worker("x", lambda: seen.append(worker.is_working), lambda: seen.append(worker.is_working))
    worker.start()
    worker.join(30)
    assert seen == [True, False]


def test_the_end_of_a_file_is_seen_at_once(tmp_path, monkeypatch):
    """The capture thread of a file ends first; whoever is woken by that finds the engine no longer running."""
    seen: list[bool] = []
    ended = Engine._thread_ended

    def look(engine: Engine) -> None:
        seen.append(engine.running())
        ended(engine)

    monkeypatch.setattr(Engine, "_thread_ended", look)
    with wirecap.write(tmp_path / "a.pcap") as out:
        for _ in range(1000):
            out.write(bytes(60))
    wirecap.capture(str(tmp_path / "a.pcap"), "count", M=10, R=10)  # it ends when handlers have taken most of them
    assert seen
    assert not any(seen)
