"""The soak: the operator among faults of every kind, for any length of time, checked by observations from outside."""
