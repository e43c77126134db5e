"""A driver's hold on a sweep that is on a server: signs of life, and noticing that another has taken it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeps.outbox.errors import LeaseLostError
from sweeps.outbox.lock import BEAT_SECONDS, LEASE_SECONDS, boot_seconds
from sweeps.store.holder import Holder
from sweeps.store.read import Store

if TYPE_CHECKING:
    from sweeps.store.leases import Leases
    from sweeps.store.write import Writer


class Tenure:
    """The epoch that a driver has won; only the outbox's thread calls it, before each operation and from time to time.

    What is on its way to the server when the next epoch is won still arrives: a request can't be taken back.
    """

    def __init__(self, store: Store, name: str, holder: Holder, writer: Callable[[], "Writer"]) -> None:
        self._store, self._name, self._holder, self._writer = store, name, holder, writer
        self._leases: Leases | None = None
        self._confirmed = boot_seconds()  # the last moment at which nobody else could have taken it
        self._beaten: float | None = None

    @property
    def epoch(self) -> int:
        """The epoch that this driver holds."""
        return self._holder.epoch

    def beat(self) -> None:
        """Give a sign of life where one is due, and look whether the epoch is still the last.

        Who was silent for so long that another may have followed, as a machine that slept, tries to win the next epoch
        itself. LeaseLostError where somebody else has.
        """
        if (leases := self._epochs()) is None:
            return
        now, following = boot_seconds(), self.epoch + 1
        if now - self._confirmed > LEASE_SECONDS:
            if not leases.claim(following, self._holder.nonce):
                raise LeaseLostError(self._name)
            self._holder, self._beaten = replace(self._holder, epoch=following), None
        elif leases.winner(following) is not None:
            raise LeaseLostError(self._name)
        if self._beaten is None or now - self._beaten >= BEAT_SECONDS:
            self._holder = replace(self._holder, beat=self._holder.beat + 1)
            self._writer().set_holder(leases.experiment_id, self._holder)
            self._beaten = now
        self._confirmed = now

    def release(self) -> None:
        """Say that nobody drives the sweep any more."""
        if (leases := self._epochs()) is not None and leases.winner(self.epoch + 1) is None:
            self._writer().set_holder(leases.experiment_id, replace(self._holder, released=True))

    def _epochs(self) -> "Leases | None":
        """The sweep's epochs; None where it was removed."""
        if self._leases is None:
            self._leases = self._store.experiments.leases(self._name)
        return self._leases
