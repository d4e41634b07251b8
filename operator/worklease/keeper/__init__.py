"""Keeps the leases: takes turns, makes calls, publishes what is known."""
