"""Three errors: the tracker is away, it refuses an operation, the disk is full; and how long is waited."""

from urllib.parse import urlsplit

WAIT_SECONDS = 600  # that a tracker may be away, or a disk full, before a command gives up


def reason(error: Exception) -> str:
    """Why a tracker took nothing: its address and what the network said, if libraries have wrapped that; else all."""
    address = ""
    inner: BaseException | None = error
    while inner is not None:
        if url := getattr(getattr(inner, "request", None), "url", None):
            parts = urlsplit(url)
            address = f"{parts.scheme}://{parts.netloc}: "
        if isinstance(inner, OSError) and inner.strerror and (address or inner is error):
            return address + inner.strerror
        inner = inner.__cause__ or inner.__context__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class TrackerAwayError(Exception):
    """The tracker doesn't take what waits for it; nothing is lost, and a later start sends it."""


class RefusedError(ValueError):
    """An operation that no later attempt mends: a missing permission, a journal that isn't ours. It stays in there."""


class DiskFullError(Exception):
    """There was no room for a record for too long; nothing is lost, and a later start goes on."""


class LeaseLostError(RefusedError):
    """Another driver has taken a sweep on a server. What this one had to send stays in its journal."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"sweep {name!r} has been taken over by another driver, so this one stops; nothing is lost: once the other "
            "has ended, the same command sends what this one had still to send"
        )
