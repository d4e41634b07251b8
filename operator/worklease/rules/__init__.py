"""The rules, pure: no clock, no socket, the standard library only."""
