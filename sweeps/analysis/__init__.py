"""What a sweep says, in numbers: plan and rows in, tables out. Pure; knows no words, no picture, no MLflow, no Optuna.

`settings` holds runs against the plan; `noise` and `distributions` say what chance does; `ranking`, `curves`, `rates`,
`effects`, `decomposition`, `best_quarter` and `diagnosis` are the numbers, and `results` keeps them for one sweep;
`comparison` holds two together, `reproduction` a run and its repetition.
"""
