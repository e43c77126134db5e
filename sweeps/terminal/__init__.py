"""What a person sees while a sweep runs and after, and what commands share. Knows neither MLflow nor Optuna."""
