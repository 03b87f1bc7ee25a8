"""What ``wirecap-extcap`` answers when Wireshark asks, and what it says of wrong calls."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest

from wirecap.extcap.__main__ import run
from wirecap.extcap.options import OPTIONS

SENTENCE = re.compile(r"(extcap|interface|dlt|arg|value|control) ((?:\{[a-z]+=[^{}]*\})+)")


def answer(capsys, *words: str) -> list[tuple[str, dict[str, str]]]:
    """The sentences of an answer: their word and their fields."""
    assert run(words) == 0
    out = capsys.readouterr()
    assert out.err == ""
    found = []
    for line in out.out.splitlines():
        match = SENTENCE.fullmatch(line)
        assert match, line
        found.append((match[1], dict(field.split("=", 1) for field in match[2][1:-1].split("}{"))))
    return found


def test_interfaces(capsys):
    """Each interface, any, and one for other namespaces; the toolbar's controls."""
    before, found = None, []
    while before != (there := sorted(socket.if_nameindex())):  # tests beside this one make interfaces, too
        before, found = there, answer(capsys, "--extcap-interfaces", "--extcap-version=4.0")
    names = [fields["value"] for word, fields in found if word == "interface"]
    assert names == [f"wirecap-{name}" for _, name in before] + ["wirecap-any", "wirecap"]
    assert [fields["display"] for word, fields in found if word == "control"] == ["Captured", "Dropped", "Log"]
    assert found[0][0] == "extcap"


def test_the_dialog(capsys):
    """Every option has its field, the interface only where none is named; a field's default is one of its values."""
    named = answer(capsys, "--extcap-config", "--extcap-interface", "wirecap-lo")
    chosen = answer(capsys, "--extcap-config", "--extcap-interface", "wirecap")
    calls = [fields["call"] for word, fields in chosen if word == "arg"]
    assert calls == [f"--{option.name}" for option in OPTIONS]
    assert [fields["call"] for word, fields in named if word == "arg"] == [c for c in calls if c != "--interface"]
    arguments = {fields["number"]: fields for word, fields in named if word == "arg"}
    for word, fields in named:
        if word == "value":
            default = arguments[fields["arg"]]["default"] == fields["value"]
            assert fields["default"] == ("true" if default else "false")
    assert {"auto", "xdp", "packet"} <= {fields["value"] for word, fields in named if word == "value"}


def test_values_are_loaded_again(capsys):
    """The interface's values are those of the namespace chosen so far; those of the namespace are what there is."""
    asked = ("--extcap-config", "--extcap-interface", "wirecap", "--extcap-reload-option")
    found = answer(capsys, *asked, "interface", "--netns", "(here)", "--engine", "auto")
    assert {word for word, _ in found} == {"value"}
    assert "lo" in {fields["value"] for _, fields in found}
    assert answer(capsys, *asked, "--netns")[0][1]["value"] == "(here)"
    none_such = answer(capsys, *asked, "interface", "--netns", "nosuchnetns")
    assert [fields["value"] for _, fields in none_such] == ["any"]


@pytest.mark.parametrize(("interface", "number"), [("wirecap-lo", "1"), ("wirecap-any", "276"), ("wirecap", "1")])
def test_link_types(capsys, interface, number):
    """Ethernet, or cooked packets of any."""
    ((word, fields),) = answer(capsys, "--extcap-dlts", "--extcap-interface", interface)
    assert (word, fields["number"]) == ("dlt", number)


def test_filters_are_checked(capsys):
    """Wireshark shows the one line of an answer; a filter that will do has none."""
    assert run(["--extcap-capture-filter", "tcp port 80", "--extcap-interface", "wirecap-lo"]) == 0
    assert capsys.readouterr().out == ""
    assert run(["--extcap-capture-filter=tcp prt 80", "--extcap-interface", "wirecap-lo"]) == 0
    out = capsys.readouterr().out
    assert "near 'prt' (column 5)" in out
    assert out.count("\n") == 1


def test_answers_import_little():
    """What Wireshark asks at each of its starts needs neither NumPy nor Numba, pyroute2 or click."""
    calls = [["--extcap-interfaces"], ["--extcap-config", "--extcap-interface", "wirecap-any"]]
    calls += [["--extcap-dlts", "--extcap-interface", "wirecap-lo"]]
    code = (
        f"import sys; from wirecap.extcap.__main__ import run; assert not any(map(run, {calls!r}));"
        "sys.exit(str({'numpy', 'numba', 'pyroute2', 'click', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "set()\n"


CAPTURE = "--capture --fifo /nonexistent/x --extcap-interface"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "nothing is asked for"),
        ("--extcap-interface wirecap-lo", "nothing is asked for"),
        ("--extcap-interface", "needs a value"),
        ("--extcap-config --capture --extcap-interface wirecap-lo", "config and capture at once"),
        ("--extcap-config", "no interface is named"),
        ("--extcap-dlts --extcap-interface eth1", "no interface 'eth1'"),
        ("--extcap-dlts --extcap-interface wirecap-nosuch", "no interface 'nosuch'"),
        ("--extcap-config --extcap-interface wirecap- ", "no interface 'wirecap-'"),
        ("--extcap-config --extcap-interface wirecap --extcap-reload-option cell-size", "'cell-size'"),
        ("--capture --extcap-interface wirecap-lo", "--capture needs --fifo"),
        ("--extcap-interfaces --enigne xdp", "did you mean --engine?"),
        ("--extcap-interfaces lo", "unknown word 'lo'"),
        ("--extcap-later --extcap-interfaces lo", "unknown word 'lo'"),
        (f"{CAPTURE} wirecap", "no interface is named"),
        (f"{CAPTURE} wirecap-lo --engine dpdk", "choose from auto, xdp, packet, direct"),
        (f"{CAPTURE} wirecap-lo --m 0", "M must be 1 to 65536"),
        (f"{CAPTURE} wirecap-lo --t 200", "--t: '200' is not a whole percentage"),
        (f"{CAPTURE} wirecap-lo --cell 1000", "--cell: '1000' is not one of its values"),
        (f"{CAPTURE} wirecap-lo --snaplen many", "--snaplen: 'many'"),
        (f"{CAPTURE} wirecap-lo --queues a", "lo@a"),
        (f"{CAPTURE} wirecap-lo --netns nosuchnetns", "no network namespace 'nosuchnetns'"),
        (f"{CAPTURE} wirecap-lo --extcap-control-out /nonexistent/y", "/nonexistent/y: No such file"),
        (f"{CAPTURE} wirecap-lo --extcap-capture-filter tcp+prt+80", "near 'prt'"),
        (f"{CAPTURE} wirecap-lo --engine packet", "/nonexistent/x: No such file"),
    ],
)
def test_wrong_calls(capsys, words, says):
    """Status 2, and one line that says what is wrong."""
    assert run([word.replace("+", " ") for word in words.split()]) == 2
    out = capsys.readouterr()
    assert says in out.err
    assert out.err.count("\n") == 1
    assert out.out == ""


def test_what_a_later_wireshark_adds_is_let_pass(capsys):
    """An unknown word of the protocol changes nothing; an option of ours has its value beside it or after =."""
    words = ["--extcap-interfaces", "--extcap-locale=de", "--extcap-later", "3", "--extcap-last"]
    before, asked, plain = None, [], []
    while before != (there := sorted(socket.if_nameindex())):  # tests beside this one make interfaces, too
        before, asked, plain = there, answer(capsys, *words), answer(capsys, "--extcap-interfaces")
    assert asked == plain != []
