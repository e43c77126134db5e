"""Which point comes next: the only room that imports Optuna. Knows no tracker."""
