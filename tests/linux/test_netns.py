"""Network namespaces: a function runs inside one, its caller stays where it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import netns


def own_namespace() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


@pytest.mark.live
def test_call_changes_only_its_own_thread(fresh_name: str) -> None:
    """A function runs in the namespace while the caller's thread and other threads stay in theirs."""
    netns.create(fresh_name)
    before, elsewhere = own_namespace(), []
    other = threading.Thread(target=lambda: elsewhere.append(own_namespace()))
    inside = netns.call(fresh_name, own_namespace)
    other.start()
    other.join()
    assert inside != before
    assert own_namespace() == before
    assert elsewhere == [before]


@pytest.mark.live
def test_sockets_and_processes_stay_in_the_namespace(fresh_name: str) -> None:
    """A socket and a child process made inside belong to the namespace after the call has returned."""
    netns.create(fresh_name)
    inside = netns.call(fresh_name, own_namespace)
    command = [sys.executable, "-c", "import os; print(os.readlink('/proc/self/ns/net'))"]
    child = netns.call(fresh_name, lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    assert child.stdout.strip() == inside
    with netns.call(fresh_name, socket.socket, socket.AF_INET, socket.SOCK_STREAM) as made, socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody else here listens on that port
        made.bind(("0.0.0.0", held.getsockname()[1]))
        with socket.socket() as here, pytest.raises(ConnectionRefusedError):
            here.connect(held.getsockname())


@pytest.mark.live
def test_iproute2_sees_it_and_it_is_removed(fresh_name: str) -> None:
    """A created namespace has its file in /run/netns; deleting twice leaves nothing and is no error."""
    netns.create(fresh_name)
    netns.create(fresh_name)
    assert Path("/run/netns", fresh_name).exists()
    netns.delete(fresh_name)
    netns.delete(fresh_name)
    assert fresh_name not in netns.names()


@pytest.mark.live
def test_remains_of_a_cut_short_creation_are_replaced(fresh_name: str) -> None:
    """A bare file in /run/netns cannot be entered, says how to remove it, and create() makes it whole."""
    netns.FOLDER.mkdir(exist_ok=True)
    (netns.FOLDER / fresh_name).touch()
    with pytest.raises(SystemCallError, match="ip netns delete"):
        netns.call(fresh_name, own_namespace)
    netns.create(fresh_name)
    assert netns.call(fresh_name, own_namespace) != own_namespace()


@pytest.mark.live
def test_unknown_name_tells_the_near_ones(fresh_name: str) -> None:
    """An unknown namespace is a usage error that names one with a similar name."""
    netns.create(fresh_name)
    with pytest.raises(UsageError, match=f"did you mean .*{fresh_name}"):
        netns.call(fresh_name + "x", own_namespace)


@pytest.mark.live
def test_errors_of_the_function_pass_through(fresh_name: str) -> None:
    """An exception raised inside reaches the caller as it is."""
    netns.create(fresh_name)
    with pytest.raises(ZeroDivisionError):
        netns.call(fresh_name, lambda: 1 // 0)


@pytest.mark.live
def test_a_nameless_namespace_lives_as_long_as_its_descriptor() -> None:
    """call_in_new() runs in a namespace of its own, that has a loopback interface and no name."""
    (inside, devices), descriptor = netns.call_in_new(lambda: (own_namespace(), socket.if_nameindex()))
    try:
        assert inside != own_namespace()
        assert (1, "lo") in devices
        named = [file.stat().st_ino for file in netns.FOLDER.glob("*") if file.exists()]  # other tests' come and go
        assert os.fstat(descriptor).st_ino not in named
        assert inside == f"net:[{os.fstat(descriptor).st_ino}]"
    finally:
        os.close(descriptor)


def test_none_is_the_callers_own_namespace() -> None:
    """Without a name the function runs in the caller's thread."""
    assert netns.call(None, threading.get_ident) == threading.get_ident()
