"""The soak: the operator among faults of every kind, for as long as one likes; judged by what was seen from outside."""
