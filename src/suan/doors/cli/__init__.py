"""The command line: verbs on the grid. Knows how to ask and how to print; every decision is the grid's."""
