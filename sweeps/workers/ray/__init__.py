"""Where runs execute: a Ray task a run, on a cluster or a Ray of our own. Knows no MLflow and no Optuna.

The only place that imports ray. Nodes share no file system with the driver: tokens reach a node through Ray's object
store, once; a task trains in a folder of its own and sends its state files as it keeps them, so that a run whose node
is lost goes on elsewhere. All that tasks say goes through one mailbox, an actor beside the driver.
"""

try:
    import ray as _ray  # noqa: F401
except ImportError:
    raise ValueError("--engine ray needs Ray: pip install '.[cluster]'") from None
