"""The performance model: hours, GiB, kWh and the parallel plan, from shapes and tables, before a run."""
