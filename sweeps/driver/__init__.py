"""One start of a sweep: ask, execute, keep, tell; and what is kept of each run. Knows no terminal and no MLflow."""
