"""Decisions. Pure functions of (state, policy, now): no clock, randomness, I/O, environment or logging."""
