"""Bytes at a site: content-addressed artifacts, their way to other sites, and the logs of runs."""
