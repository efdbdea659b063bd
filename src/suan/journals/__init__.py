"""Where the facts are kept, in order: in memory, or in one SQLite file."""
