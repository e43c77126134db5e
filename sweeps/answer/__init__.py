"""Turns numbers into an answer: sentences, tables, pictures, the page. Knows no MLflow, and trains nothing."""
