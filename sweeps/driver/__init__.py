"""Runs a sweep: asks the search, has runs executed, and puts what they report into the outbox.

Beside that stands what else is done with recorded runs: confirm, reproduce, list, drop weights. Imports no terminal and
no MLflow.
"""
