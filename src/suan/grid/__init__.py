"""The nouns of the grid: immutable structs and closed unions. No I/O, no clock, no decisions."""
