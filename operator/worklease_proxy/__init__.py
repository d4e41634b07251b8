"""The proxy beside a worker in its pod: an unmodified worker uses its session while the operator keeps its lease.

It imports nothing of the operator, and of packages only aiohttp: it starts with each sandbox.
"""
