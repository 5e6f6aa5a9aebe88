"""Lab lwAFTR: a PCP server with PORT_SET and a softwire concentrator (RFC 7753, RFC 7596 6).

The cores (server, allocation, bindings, softwire, faults, control) are sans-IO: they take the
time in integer milliseconds of a clock that never runs backwards, their random source, and
octets, and answer with octets. Only shell.py holds sockets.
"""
