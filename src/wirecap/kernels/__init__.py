"""All the compiled code, and nothing else: the loops that touch packets.  Imports only NumPy and Numba."""
