"""A Work API for tests, the demo and offline use: true compare-and-set, a real clock, faults on demand.

This package owns the server's side of the protocol. It imports nothing of `worklease`, so that it cannot agree with
the operator by sharing its mistakes.
"""
