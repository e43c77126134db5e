"""What a sweep says: plan and rows in, numbers and sentences out. Pure; knows no MLflow, no Optuna, no matplotlib.

`settings` holds runs against the plan; `ranking`, `curves`, `rates`, `effects` and `diagnosis` are the numbers;
`results` keeps them for one sweep; `advice`, with the `commands` that mend, and `words` say them.
"""
