"""Suan (算): a computing-power grid for large models."""

__version__ = "0.1.0"
