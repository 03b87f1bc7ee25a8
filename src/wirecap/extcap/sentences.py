"""The sentences that Wireshark gets for an answer (extcap(4)): interfaces, link types, the dialog, a wrong filter."""

from __future__ import annotations

import socket

from wirecap.config.specs import ANY
from wirecap.errors import UsageError, WirecapError
from wirecap.extcap import toolbar
from wirecap.extcap.arguments import CHOSEN, PREFIX, Arguments
from wirecap.extcap.options import HERE, OPTIONS, Option
from wirecap.version import __version__

HELP = "https://www.wireshark.org/docs/man-pages/extcap.html"


def _sentence(word: str, **fields: object) -> str:
    return f"{word} " + "".join(f"{{{name}={value}}}" for name, value in fields.items())


def interfaces() -> list[str]:
    """All interfaces of this network namespace, ``any``, and one whose name the user gives; the toolbar's controls."""
    lines = [_sentence("extcap", version=__version__, display="WireCAP")]
    for name in [*_names(None), ANY]:
        shown = "all interfaces" if name == ANY else name
        lines.append(_sentence("interface", value=PREFIX + name, display=f"WireCAP: {shown}"))
    lines.append(_sentence("interface", value=CHOSEN, display="WireCAP: in another network namespace"))
    return lines + [_sentence("control", number=number, **fields) for number, fields in enumerate(toolbar.CONTROLS)]


def _names(namespace: str | None) -> list[str]:
    """Interfaces by index; without those whose names no sentence can hold."""
    if namespace is None:
        index = socket.if_nameindex()
    else:
        from wirecap.linux import netns

        index = netns.call(namespace, socket.if_nameindex)
    found = [name for _, name in sorted(index)]
    return [name for name in found if not set("{}") & set(name)]


def link_types(asked: Arguments) -> list[str]:
    """The one link type that the interface has; Ethernet as long as none has been chosen."""
    number, name, display = _link_type(asked)
    return [_sentence("dlt", number=number, name=name, display=display)]


def _link_type(asked: Arguments) -> tuple[int, str, str]:
    from wirecap.linux import ethtool, netlink, netns
    from wirecap.source import link_types

    number = link_types.ETHERNET
    if not asked.interface.isprintable():  # no netlink message can hold bytes that are no text
        raise UsageError(f"no interface {asked.interface!r}", "wirecap-extcap --extcap-interfaces lists them")
    if asked.interface == ANY:
        number = link_types.of_link(None)
    elif asked.interface:
        try:
            number = link_types.of_link(netns.call(asked.netns, ethtool.hardware, asked.interface))
        except OSError:
            raise netns.call(asked.netns, netlink.unknown, asked.interface) from None
    return number, *link_types.NAMES[number]


def configuration(asked: Arguments) -> list[str]:
    """The dialog's fields; for ``--extcap-reload-option`` the values of one of them as they are now."""
    reload = asked.values.get("extcap-reload-option", "").lstrip("-")
    lines = []
    for number, option in enumerate(OPTIONS):
        if (option.chosen and not asked.is_chosen) or reload not in ("", option.name):
            continue
        if not reload:
            lines.append(_argument(number, option))
        values = _values(option, asked)
        for value in values:
            default = "true" if value == option.default else "false"
            lines.append(_sentence("value", arg=number, value=value, display=value, default=default))
    if reload and not lines:
        raise UsageError(f"nothing to load for {reload!r}", "name interface or netns")
    return lines


def _argument(number: int, option: Option) -> str:
    fields: dict[str, object] = {"number": number, "call": f"--{option.name}", "display": option.display}
    fields |= {"tooltip": option.tooltip, "type": option.kind}
    if option.default:
        fields["default"] = option.default
    if option.range:
        fields["range"] = option.range
    if option.chosen:
        fields["required"] = "true"
    if option.reload:
        fields |= {"reload": "true", "placeholder": "Load again"}
    return _sentence("arg", **fields, group=option.group)


def _values(option: Option, asked: Arguments) -> tuple[str, ...]:
    if option.name == "netns":
        from wirecap.linux import netns

        return (HERE, *netns.names())
    if option.name == "interface":
        try:
            return (*_names(asked.netns), ANY)
        except WirecapError:  # a namespace of which only a part has been typed, or which this user may not enter
            return (ANY,)
    return option.values


def wrong_filter(asked: Arguments) -> list[str]:
    """What is wrong with ``--extcap-capture-filter``; nothing if it will do. Wireshark shows it beside the field."""
    from wirecap.filters.expression import compile_filter

    try:
        compile_filter(asked.values["extcap-capture-filter"].strip(), _link_type(asked)[0])
    except WirecapError as error:
        return [" ".join(str(error).split())]
    return []
