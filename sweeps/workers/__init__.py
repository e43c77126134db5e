"""Where runs execute: one protocol, processes of this machine, tasks of a cluster. Knows no MLflow and no Optuna."""
