"""``wirecap-extcap``: this engine in Wireshark's list of interfaces (extcap(4))."""
