"""`Holder`: the process that drives a sweep, as a note here and a tag on a server. `outbox.lock` knows if it lives."""

import json
import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Holder:
    """The process that drives a sweep. Times are Unix times in seconds of the holder's own clock."""

    host: str
    pid: int
    since: float
    seen: float | None = None  # its last sign of life, of a sweep on a server

    def to_json(self) -> str:
        """As note and tag hold it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


def holder_from_json(text: str) -> Holder | None:
    """The holder that `to_json` wrote; None for a text that names none."""
    try:
        content = json.loads(text)
        seen = content.get("seen")
        holder = Holder(
            str(content["host"]), int(content["pid"]), float(content["since"]), None if seen is None else float(seen)
        )
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return None
    times = (holder.since, holder.seen or 0.0)
    return holder if all(map(math.isfinite, times)) else None
