"""libpcap's own interface: a shared object to preload, behind which a running capture serves unmodified programs."""
