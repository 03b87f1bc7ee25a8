"""Handlers that are wrong: one line with the user's file and line and a hint, for every way to be wrong."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

import wirecap
from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError
from wirecap.handlers.handler import Setting
from wirecap.handlers.table import bind, make
from wirecap.handlers.user import load_handler
from wirecap.kernels.base.jit import PURE


@pytest.fixture
def written(tmp_path):
    """Writes a module and returns its path."""

    def write(text: str, name: str = "mine"):
        path = tmp_path / f"{name}.py"
        path.write_text("import numba\nimport numpy as np\nimport wirecap\n" + textwrap.dedent(text))
        return path

    return write


NOT_COMPILED = [
    ("state.n += packet.udp.sport", "udp has no 'sport'", "did you mean src_port?"),
    ("state.n += packet.upd.length", "packet has no 'upd'", "did you mean udp?"),
    ("state.n += unknown", "NameError: name 'unknown' is not defined", ""),
    ("state.n += python(3)", "python is a Python function", "write @numba.njit above def python"),
    ("TABLE[packet.length] = 1", "TABLE is a Python dict", "compiled code can use"),
    ("state.n[packet.length] += 1", "getitem(int, int) is not supported", 'state={"ports"'),
    ('state.n += packet["a"]', "getitem(packet, str) is not supported", "packet.u16(i)"),
    ("state.n += packet.src", "packet has no 'src'", "write packet.ip.src, packet.ip6.src or packet.eth.src"),
    ("state.n += packet.ttl", "packet has no 'ttl'", "write packet.ip.ttl"),
    ("state.n += packet.u16(1, 2)", "packet.u16 does not take int, int", ""),
    ("state.n += helper(packet)", "packet has no 'nothing'", ""),
    ("packet.ip = 3", "packet.ip cannot be set", ""),
    ("packet.wire_length = 3", "packet.wire_length cannot be set", ""),
    ("state.n = 'a'", "str cannot become int", ""),
    ("x = 1 if packet.tcp else 'a'", "in one place", ""),
    ("state.n += packet.tcp or packet.udp", "tcp in one place and udp in another", ""),
    ("state.n += np.nothing(1)", "module 'numpy' has no attribute 'nothing'", ""),
    ("class A: pass", "unsupported opcode", ""),
    ("return True", "returns a value (bool)", "return nothing, and count in the state"),
    ("yield 1", "is a generator", "return nothing, and count in the state"),
]


@pytest.mark.skipif(PURE, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")
@pytest.mark.parametrize(("line", "message", "hint"), NOT_COMPILED, ids=[case[0] for case in NOT_COMPILED])
def test_what_does_not_compile(written, line, message, hint):
    """A handler that does not compile is one line: file, line, what is wrong, and a hint; nothing of Numba's."""
    path = written(
        f"""
        TABLE = {{}}
        def python(x): return x
        @numba.njit
        def helper(packet): return packet.nothing
        @wirecap.handler
        def wrong(packet, state):
            state.m += 1
            {line}
        """
    )
    handler = bind(load_handler(f"{path}:wrong"))
    with pytest.raises(UsageError) as caught:
        handler.compile(lambda name: None)
    error = caught.value
    expected = 8 if "helper" in line else 12
    # A fault that belongs to no line is shown at the function, or at its decorator.
    lines = {expected, 9, 10} if line.startswith(("return", "yield", "x =")) else {expected}
    assert any(error.message.startswith(f"{path}, line {number}: handler wrong ") for number in lines), error
    assert message in error.message
    assert hint in error.hint
    assert "\n" not in str(error)
    assert "numba" not in error.message.lower()


def test_unknown_field_of_a_declared_state(written):
    """A field that the declared state does not have is shown with the line that uses it."""
    if PURE:
        pytest.skip("nothing is compiled under NUMBA_DISABLE_JIT=1")
    path = written(
        """
        @wirecap.handler(state={"packets": np.int64})
        def wrong(packet, state):
            if packet.tcp:
                state.pakets += 1
        """
    )
    with pytest.raises(UsageError, match=r"line 8: .*state has no 'pakets' \(did you mean packets\?\)"):
        bind(load_handler(f"{path}:wrong")).compile(lambda name: None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere.py:dns", "nowhere.py: no such file"),
        ("nowhere.at.all:dns", "no module named 'nowhere'"),
        ("json:dmups", r"json has no 'dmups' \(did you mean dumps\?\)"),
        ("json:decoder", "is not a handler"),
        ("conut", r"unknown handler 'conut' \(did you mean count\?\)"),
        (
            "xyz",
            r"unknown handler 'xyz' \(use count, flows, pkt_handler, queue_profiler, serve, share, write, or your own",
        ),
    ],
)
def test_names_that_lead_nowhere(name, message):
    """What is not there is said, with what was probably meant."""
    with pytest.raises(UsageError, match=message):
        make(HandlerSpec.parse(name), Setting())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def dns(packet, state:\n    pass", r"mine.py, line \d+: "),
        ("import nothing_like_it", "mine.py, line 4: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("\n\nwirecap.Counter('srcip')", r"mine.py, line 6: packets have no field 'srcip' \(did you mean src\?\)"),
        ("@wirecap.handler\ndef dns(packet): ...", r"mine.py, line 4: handler dns takes"),
        ("\n\n1 / 0", "mine.py, line 6: ZeroDivisionError: division by zero"),
        ("def dns(a, b): ...", r"dns takes \(a, b\) .use \(packet, state\), \(chunk\) or \(timestamp_ns, data\)"),
        ("@wirecap.handler\ndef dns(packet): ...", r"dns takes \(packet\) .write def dns\(packet, state\)"),
        ("@wirecap.handler\ndef dns(packet, state, *more): ...", r"dns takes \(packet, state, \*more\)"),
        ("@wirecap.handler\ndef dns(packet, state, port='a'): ...", "option port has an unsupported default: 'a'"),
        ("@wirecap.chunk_handler(state={'n': int})\ndef dns(chunk): ...", "has a state but no parameter for it"),
        ("@wirecap.handler(state={'n': object})\ndef dns(packet, state): ...", "state.n is object, not a number"),
        ("@wirecap.handler(state={'n': 'what'})\ndef dns(packet, state): ...", "its state is not a record"),
        ("@wirecap.handler(state=np.dtype(int))\ndef dns(packet, state): ...", "is int64, not a record"),
    ],
)  # fmt: skip
def test_modules_and_signatures_that_are_wrong(written, text, message):
    """A module that cannot be imported, and a function that cannot be a handler, are shown with their place."""
    with pytest.raises(UsageError, match=message):
        bind(load_handler(f"{written(text)}:dns"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prot": "1"}, r"dns has no option 'prot' \(did you mean port\?\)"),
        ({"x": "1"}, r"dns has no option 'x' \(its options are port, loud\)"),
        ({"port": "1.5"}, "port must be a whole number, not '1.5'"),
        ({"port": "0x8000000000000000"}, "port=9223372036854775808 has more than 64 bits"),
        ({"loud": "perhaps"}, "loud must be true or false, not 'perhaps'"),
    ],
)
def test_options_that_are_wrong(options, message):
    """An option that is not there, or of another type, is a usage error with what would be right."""

    @wirecap.handler
    def dns(packet, state, port=53, loud=False):
        state.n += port

    with pytest.raises(UsageError, match=message):
        bind(dns, options)


def test_a_function_says_by_its_parameters_how_it_is_called(written):
    """Undecorated functions are handlers by their first parameters; a module beside the file is found."""
    written("PORT = 53", "beside")
    path = written(
        """
        from beside import PORT
        def compiled(packet, state): state.n += PORT
        def chunks(chunk, state): pass
        def packets(timestamp_ns, data, prefix=""): pass
        """
    )
    ways = [load_handler(f"{path}:{name}").way.name for name in ("compiled", "chunks", "packets")]
    assert ways == ["COMPILED", "CHUNK", "CALLBACK"]


def test_merge_that_fails(mixed_trace):
    """A merge that raises is a failed run with the user's line, and the capture's summary."""

    def merge(threads):
        return threads[1]

    @wirecap.chunk_handler(state={"n": np.int64}, merge=merge)
    def dull(chunk, state):
        state.n += 1

    its_line = r"dull: its merge failed: IndexError: .*test_user_errors.py, line"
    with pytest.raises(wirecap.WirecapError, match=its_line) as raised:
        wirecap.capture(str(mixed_trace), dull)
    packets = raised.value.summary["packets"]
    assert packets["received"] == packets["delivered"] > 0
