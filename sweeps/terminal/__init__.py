"""What a person sees while a sweep runs and after. Knows neither MLflow nor Optuna."""
