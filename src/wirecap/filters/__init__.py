"""tcpdump's filter language: expression -> classic BPF -> native code, and -> eBPF."""
