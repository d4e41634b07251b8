"""The benchmark: what a lease costs, measured on the operator as a process, beside the floor and the usual way.

Not shipped. Owns its own programs and nothing of the operator: it is looked at from outside, through ``/proc``, the
API server's audit log and a Work API of the benchmark's own.
"""
