"""The performance model at the doors: tables and configs in, hours, GiB, kWh and plans out. CLI and REST
share it.
"""
