"""The shell: observe, append, decide, audit, order. The only place where state, time and the outside meet."""
