"""Benchmarks: each prints its figure beside its goal, both sides measured in turn in one run, medians."""
