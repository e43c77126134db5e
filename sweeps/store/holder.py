"""`Holder`: the process that drives a sweep, as a note here and a tag on a server. `outbox.lock` knows if it lives."""

import json
import math
from dataclasses import asdict, dataclass

LONGEST_HOST = 100  # characters; what is longer, or can't be printed, is no name of a host


@dataclass(frozen=True)
class Holder:
    """The process that drives a sweep. Times are Unix times in seconds of the holder's own clock, for people alone."""

    host: str
    pid: int
    since: float
    nonce: str = ""  # one of a kind, by which it knows itself again
    epoch: int = 0  # of a sweep on a server: the one that it has won
    beat: int = 0  # counts its signs of life there
    released: bool = False  # whether it drives the sweep no more

    def to_json(self) -> str:
        """As note and tag hold it."""
        return json.dumps(asdict(self))


def holder_from_json(text: str) -> Holder | None:
    """The holder that `to_json` wrote, in this version or an earlier one; None for a text that names none."""
    try:
        content = json.loads(text)
        holder = Holder(
            host="".join(c if c.isprintable() else "?" for c in str(content["host"])[:LONGEST_HOST]),
            pid=int(content["pid"]),
            since=float(content["since"]),
            nonce=str(content.get("nonce", "")),
            epoch=int(content.get("epoch", 0)),
            beat=int(content.get("beat", 0)),
            released=content.get("released") is True,
        )
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return None
    return holder if math.isfinite(holder.since) and holder.epoch >= 0 else None
