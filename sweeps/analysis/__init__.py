"""What a sweep says: plan and rows in, numbers and sentences out. Pure; knows no MLflow, no Optuna, no matplotlib.

`settings` holds runs against the plan; `noise` and `distributions` say what chance does; `ranking`, `curves`, `rates`,
`effects`, `decomposition`, `best_quarter` and `diagnosis` are the numbers, and `results` keeps them for one sweep;
`comparison` holds two together, `reproduction` a run and its repetition.
"""
