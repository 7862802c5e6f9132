"""Breaks a whole installation on purpose, and counts what was lost: `make faults`."""
