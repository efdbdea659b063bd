"""Figures from outside: tariffs out of tables, power out of the machine's own meters."""
