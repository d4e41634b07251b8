"""The whole journey of a user, on the user's own cluster: install with Helm, keep leases, upgrade, uninstall.

Owns the journey and what it needs of a cluster. Must not know the operator's internals: it looks at what kubectl and
helm show and at what the simulator recorded, as any user could.
"""
