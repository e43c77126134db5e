"""Who may drive a sweep that is on a server: epochs, each won by one driver alone. Knows no clock and no process.

MLflow compares and sets nothing, but an experiment's name is taken once, a deleted experiment's too. So epoch e of a
sweep is won by whoever makes the experiment of that epoch's name, which is deleted at once and holds nothing.
"""

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sweeps.store import schema


class Leases:
    """The epochs of one sweep, by its experiment, which keeps its ID whatever it is called."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self.experiment_id = client, experiment_id

    def claim(self, epoch: int, nonce: str) -> bool:
        """Whether who calls with this nonce, one of a kind, has won the epoch, by this call or by an earlier one."""
        try:
            made = self._client.create_experiment(self._name(epoch), tags={schema.LEASE: nonce})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # It may have been this very call, whose answer was lost and which was made again.
            return self.winner(epoch) == nonce
        self._delete(made)
        return True

    def winner(self, epoch: int) -> str | None:
        """The nonce of who has won an epoch; None while it is free."""
        found = self._client.get_experiment_by_name(self._name(epoch))
        if found is None:
            return None
        if found.lifecycle_stage == "active":  # of a call that was cut off before it had deleted it
            self._delete(found.experiment_id)
        return str(found.tags.get(schema.LEASE, ""))

    def _delete(self, experiment_id: str) -> None:
        try:
            self._client.delete_experiment(experiment_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # as where another that lost the race was faster
                raise

    def _name(self, epoch: int) -> str:
        return f"sweep-lease.{self.experiment_id}.{epoch}"
