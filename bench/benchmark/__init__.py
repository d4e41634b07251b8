"""The benchmark: what a lease costs, measured on the operator as a process, beside the floor and the tutorial.

Not shipped. Owns only its own programs. It looks at the operator from outside: through ``/proc``, the API server's
audit log and the benchmark's own Work API.
"""
