"""The garbage collector visits long-lived objects once, and still finds garbage in cycles in the end."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from worklease.process import START_PERIOD, tune_gc

class Node:
    def __init__(self):
        self.itself = self

now = 0.0
tune_gc(lambda: now)
stays = [Node() for _ in range(1000)]
lost = Node()
seen = weakref.ref(lost)
gc.collect()
assert gc.get_freeze_count() > 1000
assert len(gc.get_objects()) < gc.get_freeze_count()
del lost
gc.collect()
assert seen() is not None  # set aside, so not looked at
def grow():
    stays.extend(Node() for _ in range(50_000))
    gc.collect()
for _ in range(10):
    grow()
assert seen() is not None  # a fleet comes in, and stays
now = START_PERIOD
while gc.get_freeze_count():
    grow()
gc.collect()
assert seen() is None
assert gc.get_freeze_count() > len(stays)
"""


def test_what_stays_is_looked_at_again_when_there_is_twice_as_much_and_lost_cycles_are_found_then() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
