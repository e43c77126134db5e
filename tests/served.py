"""`python -m mlflow ARGUMENTS`, of which `server` serves in this very process.

By itself that command executes another Python, which imports MLflow once more: seconds for each server of a test.
"""

import os
import runpy
import sys

import mlflow.cli
import mlflow.server


def become(command: list[str], extra_env: dict[str, str], **_: object) -> None:
    """Do what `python -m MODULE ARGUMENTS` does with those variables."""
    _, _, module, *arguments = command
    os.environ.update(extra_env)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


mlflow.server._exec_cmd = become
mlflow.cli.cli()
