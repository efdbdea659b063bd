"""Simulated time: the same control plane over adapters whose sites, links and hours are made up."""
