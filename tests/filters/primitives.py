"""Every primitive of pcap-filter(7), in every form, and every name of a value that it lists."""

from __future__ import annotations

import itertools

_DIRECTIONS = ("", "src ", "dst ", "src or dst ", "src and dst ")
_DIRECTED = (
    "{}host 10.0.0.1", "{}host 2001:db8::1", "{}net 10.0.0.0/8", "{}net 10", "{}net 10.1.0.0 mask 255.255.0.0",
    "{}net 2001:db8::/32", "{}port 80", "tcp {}port 80", "udp {}port domain", "sctp {}port 9", "{}portrange 1-99",
    "tcp {}portrange 1000-2000", "ether {}host 1:2:3:4:5:6", "ip {}host 10.0.0.1", "arp {}host 10.0.0.1",
    "rarp {}host 10.0.0.1", "ip6 {}host ::1", "{}10.0.0.1", "{}port http",
)  # fmt: skip
_PROTOCOLS = (
    "ip", "ip6", "arp", "rarp", "atalk", "aarp", "decnet", "iso", "stp", "ipx", "netbeui", "lat", "moprc", "mopdl",
    "sca", "loopback", "tcp", "udp", "icmp", "icmp6", "igmp", "igrp", "pim", "ah", "esp", "vrrp", "carp", "sctp",
    "clnp", "esis", "isis", "es-is", "is-is", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp",
)  # fmt: skip
_BYTES_OF = (
    "link", "ether", "tr", "fddi", "ppp", "slip", "wlan", "radio", "ip", "ip6", "arp", "rarp", "tcp", "udp", "icmp",
    "icmp6", "sctp", "igmp", "pim", "carp", "vrrp", "igrp", "atalk", "aarp", "decnet", "iso", "lat", "moprc", "mopdl",
    "esp", "ah",
)  # fmt: skip
_ATM = (
    "vpi 1", "vci 1", "lane", "lane and ip", "oamf4s", "oamf4e", "oamf4", "oamf4sc", "oamf4ec", "oam", "metac", "bcc",
    "sc", "ilmic", "connectmsg", "metaconnect", "vpi >= 3", "vci 1 or 2",
)  # fmt: skip
_SS7 = (
    "fisu", "lssu", "lsu", "msu", "hfisu", "hlssu", "hmsu", "sio 1", "opc 1", "dpc 1", "sls 1", "hopc 1", "hsio 1",
    "hdpc 1", "hsls 1", "opc >= 5",
)  # fmt: skip
_SUBTYPES = {
    "mgt": "assoc-req assoc-resp reassoc-req reassoc-resp probe-req probe-resp beacon atim disassoc auth deauth",
    "ctl": "ps-poll rts cts ack cf-end cf-end-ack",
    "data": "data data-cf-ack data-cf-poll data-cf-ack-poll null cf-ack cf-poll cf-ack-poll qos-data qos-data-cf-ack"
    " qos-data-cf-poll qos-data-cf-ack-poll qos qos-cf-poll qos-cf-ack-poll",
}
_WIRELESS = (
    *(f"wlan {which} 1:2:3:4:5:6" for which in "host src dst ra ta addr1 addr2 addr3 addr4".split()),
    *(f"dir {way}" for way in "nods tods fromds dstods 3".split()), "wlan proto \\arp", "type wlantype ctl", "type 2",
    *(f"type {kind}" for kind in _SUBTYPES), "type 2 subtype 8", "not type data",
    *(f"type {kind} subtype {name}" for kind, names in _SUBTYPES.items() for name in names.split()),
    *(f"subtype {name}" for names in _SUBTYPES.values() for name in names.split()),
)  # fmt: skip
_FIREWALL = (
    "ifname eth0", "on eth0", "rnr 0", "rulenum 0", "rset x", "ruleset x", "srnr 0", "subrulenum 0",
    *(f"reason {code}" for code in "match bad-offset fragment short normalize memory".split()),
    *(f"action {action}" for action in "pass block nat rdr binat scrub drop 1".split()),
)  # fmt: skip
LIVE = ("inbound", "outbound", "ifindex 3")
_OTHERS = (
    "ether dst 1:2:3:4:5:6", "ether src 1:2:3:4:5:6", "ether host 1-2-3-4-5-6", "gateway 10.0.0.1", "ip proto tcp",
    "ip proto 17", "ip proto \\icmp", "ip6 proto 6", "ip6 proto \\udp", "proto 6", "proto \\tcp", "ip6 protochain 6",
    "ip protochain 6", "protochain 6", "protochain \\tcp", "ether broadcast", "broadcast", "ip broadcast",
    "ether multicast", "multicast", "ip multicast", "ip6 multicast", "ether proto ip", "ether proto \\ip6",
    "ether proto 0x800", "ether proto 100", "ether proto \\stp", "ether proto \\iso", "ether proto \\netbeui",
    "ether proto \\ipx", "decnet src 1.2", "decnet dst 1.2", "decnet host 1.2", "iso proto \\clnp",
    "iso proto \\isis", "isis proto 5", "vlan", "vlan 5", "vlan 5 and vlan 6 and ip", "vlan and tcp port 80", "mpls",
    "mpls 100", "mpls 1 and mpls 2 and host 10.0.0.1", "pppoed", "pppoes", "pppoes 5", "pppoes and ip",
    "pppoes 0x27 and ip and host 10.0.0.1", "geneve", "geneve 5", "geneve and ip", "geneve 0xb and tcp port 80",
    "vxlan", "vxlan 5", "less 64", "greater 64", "len < 64", "len >= 64", "len = 5 or len != 6", "llc",
    *(f"llc {kind}" for kind in "i s u rr rnr rej ui ua disc sabme test xid frmr".split()),
)  # fmt: skip
_ARITHMETIC = (
    "ether[0] & 1 != 0", "ip[0] & 0xf != 5", "ip[6:2] & 0x1fff = 0", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[13] = 3", "tcp[tcpflags] = tcp-syn+tcp-ack", "tcp[13] & (tcp-ece|tcp-cwr|tcp-urg|tcp-psh|tcp-rst) != 0",
    "icmp[icmptype] = icmp-echo", "icmp[icmpcode] = 0", "icmp[0] = icmp-unreach", "icmp6[icmp6type] = icmp6-echo",
    "icmp6[icmp6code] = 0", "icmp6[0] = icmp6-neighborsolicit", "udp[4:2] > 20", "ip6[6] = 6", "arp[6:2] = 1",
    "ip[2:2] % 3 = 1", "ip[2:2] ^ 3 = 1", "ip[0] << 2 = 20", "ip[0] >> 2 = 17", "-ip[0] = 1",
    "ip[0] * 2 / 2 + 1 - 1 = 69", "ip[ip[0]] = 1",
)  # fmt: skip
_COMBINED = (
    "not host 10.0.0.1", "! tcp", "tcp && udp port 53", "tcp || udp", "host 10.0.0.1 and (port 1 or port 2)",
    "host 10.0.0.1 or 10.0.0.2", "port 1 or 2 or 3", "host (10.0.0.1 or 10.0.0.2)",
    "icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply", "gateway 10.0.0.1 and not net 10.0.0.0/8",
    "src net 10.1.2.0/24", "net 192.168", "ip6 net ::/0", "net 0.0.0.0/0", "host 0.0.0.0",
    "ip host 1.2.3.4 and ip6 host ::1", "ip src or dst host 1.2.3.4", "tcp src or dst port 1",
    "ip and tcp and port 80", "ether proto 0x88cc", "ether proto \\arp", "arp and host 10.0.0.1", "link proto 0x800",
    "link host 1:2:3:4:5:6", "net 0x0a000000", "host 0x0a000001", "port 0x50",
)  # fmt: skip

_NAMES = (
    *(f"ip proto \\{name}" for name in "icmp igmp igrp pim ah esp vrrp udp tcp sctp".split()),
    *(f"ip6 proto \\{name}" for name in "ah esp pim sctp tcp udp".split()), "ip6 proto \\ipv6-icmp", "ip proto \\eigrp",
    *(f"proto \\{name}" for name in "ah esp pim sctp udp".split()),
    *(f"ip6 protochain \\{name}" for name in ("tcp", "esp")), "ip6 protochain 44",
    *(f"ether proto \\{name}" for name in (
        "aarp arp atalk decnet ip ip6 ipx iso lat loopback mopdl moprc netbeui rarp sca stp".split())),
    *(f"{link} proto \\{name}" for link in ("fddi", "tr", "wlan", "link") for name in ("arp", "iso", "netbeui", "ip6")),
    *(f"{link} host 1:2:3:4:5:6" for link in ("fddi", "tr", "wlan")),
    *(f"iso proto \\{name}" for name in "clnp esis isis".split()),
    *(f"icmp[icmptype] = icmp-{name}" for name in (
        "echoreply unreach sourcequench redirect echo routeradvert routersolicit timxceed paramprob tstamp"
        " tstampreply ireq ireqreply maskreq maskreply".split())),
    *(f"icmp6[icmp6type] = icmp6-{name}" for name in (
        "destinationunreach packettoobig timeexceeded parameterproblem echo echoreply multicastlistenerquery"
        " multicastlistenerreportv1 multicastlistenerdone routersolicit routeradvert neighborsolicit neighboradvert"
        " redirect routerrenum nodeinformationquery nodeinformationresponse ineighbordiscoverysolicit"
        " ineighbordiscoveryadvert multicastlistenerreportv2 homeagentdiscoveryrequest homeagentdiscoveryreply"
        " mobileprefixsolicit mobileprefixadvert certpathsolicit certpathadvert multicastrouteradvert"
        " multicastroutersolicit multicastrouterterm".split())),
    *(f"tcp[tcpflags] & tcp-{name} != 0" for name in "fin syn rst push ack urg ece cwr".split()),
    *(f"len {test} 60" for test in ("=", "==", "!=", "<", ">", "<=", ">=")),
    *(f"ip[2:2] {calculation} 3 = 1" for calculation in ("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>")),
    *(f"ip[{place}] = 1" for place in ("0:1", "0:2", "0:4", "2 + 2", "-0", "ip[0] & 15")),
    "tcp dst port ftp or ftp-data or domain", "host localhost", "not src and dst net 10.0.0.0/8", "gateway localhost",
)  # fmt: skip
_ANYWHERE = (
    "ip", "ip6", "arp", "tcp port 80", "host 10.0.0.1", "net 10.0.0.0/8", "ip6 host ::1", "ether host 1:2:3:4:5:6",
    "broadcast", "multicast", "ip broadcast", "ether proto 0x88cc", "vlan", "mpls", "pppoes", "llc", "stp", "iso",
    "link[0] = 1", "inbound", "outbound", "less 60", "port 53 and not host 10.0.0.1", "rarp", "atalk",
)  # fmt: skip

PRIMITIVES = (
    *(form.format(direction) for form, direction in itertools.product(_DIRECTED, _DIRECTIONS)),
    *_PROTOCOLS, *(f"{name}[0] = 1" for name in _BYTES_OF), *_ATM[:1], *_SS7[:1], *_WIRELESS[:1], *_FIREWALL[:1], *LIVE,
    *_OTHERS, *_NAMES, *_ARITHMETIC, *_COMBINED,
)  # fmt: skip

OF_LINKS = {
    "PFLOG": (117, _FIREWALL), "IEEE802_11": (105, _WIRELESS), "IEEE802_11_RADIO": (127, _WIRELESS),
    "SUNATM": (123, _ATM), "MTP2_WITH_PHDR": (139, _SS7), "MTP2": (140, _SS7), "ERF": (197, _SS7),
    "NULL": (0, _ANYWHERE), "IEEE802": (6, _ANYWHERE), "SLIP": (8, _ANYWHERE), "PPP": (9, _ANYWHERE),
    "FDDI": (10, _ANYWHERE), "PPP_ETHER": (51, _ANYWHERE), "C_HDLC": (104, _ANYWHERE), "LINUX_SLL": (113, _ANYWHERE),
    "PPI": (192, _ANYWHERE), "IPV4": (228, _ANYWHERE), "IPV6": (229, _ANYWHERE), "ATM_RFC1483": (11, _ANYWHERE),
    "IP_OVER_FC": (122, _ANYWHERE), "APPLE_IP_OVER_IEEE1394": (138, _ANYWHERE),
}  # fmt: skip
"""What is known on some links only, and what hosts and protocols are there: by name, DLT_ number and expressions."""
