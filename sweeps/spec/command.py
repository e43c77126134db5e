"""`Command`: the `sweeps.run` line, or `run_sweep` call, that runs a definition again, as target and flags.

It is turned into text here, and read from the text that earlier versions kept. Knows no plan, and runs nothing.
"""

import shlex
from dataclasses import dataclass, replace
from typing import Any

RUN = ("python", "-m", "sweeps.run")


@dataclass(frozen=True)
class Command:
    """`python -m sweeps.run TARGET FLAGS`, where each flag has a value; or a program's call, which stands in no file.

    A call's `target` is the name that the store keeps its sweep under, and its `flags` are what is to be changed in it.
    """

    target: str
    flags: tuple[tuple[str, str], ...] = ()
    is_call: bool = False

    def __str__(self) -> str:
        words = [word for flag in self.flags for word in flag]
        if self.is_call:
            return f"run_sweep(…, {self.target!r})" + (f" with {' '.join(words)}" if words else "")
        return shlex.join([*RUN, self.target, *words])

    @property
    def flags_text(self) -> str:
        """The flags alone, as a shell takes them; nothing of a call, which has none until it is changed."""
        return "" if self.is_call else shlex.join(word for flag in self.flags for word in flag)

    @property
    def is_confirmation(self) -> bool:
        """Whether it runs the best settings of another definition."""
        return bool(self.values("--confirm"))

    def values(self, flag: str) -> list[str]:
        """What it gives a flag, in order."""
        return [value for known, value in self.flags if known == flag]

    def on(self, store: str | None) -> "Command":
        """The command on a store, which is named where it is not the default; a call names its own."""
        return self if store is None or self.is_call else replace(self, flags=(*self.flags, ("--store", store)))

    def with_flags(self, **flags: object) -> "Command | None":
        """The command with more flags; one that stands there already is replaced. None where no command does it.

        `sweep`, `set` and `at` are dicts of fields, any other flag has its value. With one of the first two another
        space is run, of which nothing can be confirmed yet: --confirm goes, and --at becomes --set.
        """
        new = tuple(pair for flag, value in flags.items() for pair in _pairs(flag, value))
        if self.is_call:  # of a notebook, whose sweep is changed where it stands, and confirms nothing
            return None if flags.keys() & {"confirm", "at"} else replace(self, flags=(*self.flags, *new))
        pinned = {**_fields(flags.get("sweep")), **_fields(flags.get("set"))}
        replaced = {"--set": pinned, "--sweep": pinned, "--at": _fields(flags.get("at"))}
        kept: list[tuple[str, str]] = []
        for flag, value in self.flags:
            if flag in replaced:
                if value.partition("=")[0] not in pinned | replaced[flag]:
                    kept.append(("--set" if flag == "--at" and pinned else flag, value))
            elif not (flag == "--confirm" and pinned) and flag.removeprefix("--").replace("-", "_") not in flags:
                kept.append((flag, value))
        return replace(self, flags=(*kept, *new))


def command_from_text(text: str) -> Command:
    """The command that was kept as text: `python -m sweeps.run NAME --flag value …`, or `run_sweep(…, 'NAME')`.

    ValueError for what is neither.
    """
    if not text.startswith("python "):
        return Command(text.removeprefix("run_sweep(…, ").removesuffix(")").strip("'\""), is_call=True)
    words = shlex.split(text)[len(RUN) :]
    if len(words) % 2 == 0:
        raise ValueError(f"{text!r} is no command that runs a sweep")
    return Command(words[0], tuple(zip(words[1::2], words[2::2], strict=True)))


def _pairs(flag: str, value: object) -> list[tuple[str, str]]:
    name = f"--{flag.replace('_', '-')}"
    return (
        [(name, f"{field}={text}") for field, text in value.items()]
        if isinstance(value, dict)
        else [(name, str(value))]
    )


def _fields(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
