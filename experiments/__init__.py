"""Sweeps as small data files; `python -m sweeps.run --list`."""
