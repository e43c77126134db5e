"""What tasks say on its way to the driver: letters, and the actor that holds them. Knows no training."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from sweeps.workers.protocol import Message

ASK_SECONDS = 5.0  # a question whether to pause is answered so soon


@dataclass(frozen=True)
class Letter:
    """What a task sends at a time."""

    attempt: str
    node: str
    messages: list[Message]
    files: dict[str, bytes]  # by path in the run's folder


class Mailbox:
    """An actor: letters in the order in which they came, and which tasks are to pause."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []
        self._paused: set[str] = set()
        self._came, self._taken, self._pause = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def put(self, letter: Letter) -> None:
        """Returns at once, but with files when the driver takes them: no more than one state of a run waits here."""
        self._letters.append(letter)
        self._came.set()
        if letter.files:
            await self._taken.wait()

    async def take(self) -> list[Letter]:
        """What came since, as soon as there is something."""
        await self._came.wait()
        self._came.clear()
        self._taken.set()
        self._taken = asyncio.Event()
        letters, self._letters = self._letters, []
        return letters

    async def pause(self, attempts: list[str]) -> None:
        """From now on these are to pause."""
        self._paused.update(attempts)
        self._pause.set()
        self._pause = asyncio.Event()

    async def is_paused(self, attempt: str) -> bool:
        """Returns as soon as it is so; else after a while."""
        if attempt not in self._paused:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pause.wait(), ASK_SECONDS)
        return attempt in self._paused
