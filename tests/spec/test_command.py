"""The command that runs a sweep: how it reads, what is changed in it, and what earlier versions kept of it."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.command import Command, command_from_text

FLAGS = ("--set", "--sweep", "--at", "--search", "--num-trials", "--seeds", "--confirm")
commands = st.builds(
    Command, st.text(min_size=1), st.lists(st.tuples(st.sampled_from(FLAGS), st.text()), max_size=6).map(tuple)
)
calls = st.from_regex("[a-z][a-z0-9_]{0,9}", fullmatch=True).map(lambda name: Command(name, is_call=True))


def command(flags: str) -> Command:
    words = flags.split()
    return Command("a", tuple(zip(words[::2], words[1::2], strict=True)))


def test_a_command_reads_as_a_shell_takes_it() -> None:
    text = str(Command("my sweeps/q.py", (("--set", "data=it's.txt"), ("--seeds", "3"))))
    assert text == """python -m sweeps.run 'my sweeps/q.py' --set 'data=it'"'"'s.txt' --seeds 3"""
    assert str(Command("lr_warmup")) == "python -m sweeps.run lr_warmup"
    assert str(Command("question", is_call=True)) == "run_sweep(…, 'question')"


@given(commands | calls)
def test_what_an_earlier_version_kept_as_text_is_read_as_what_it_was(made: Command) -> None:
    assert command_from_text(str(made)) == made


@pytest.mark.parametrize("text", ["python -m sweeps.run", "python -m sweeps.run a --seeds", "python -m 'a"])
def test_a_text_that_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no command that runs a sweep|No closing quotation"):
        command_from_text(text)


@given(commands)
def test_the_flags_alone_are_what_stands_behind_the_target(made: Command) -> None:
    assert shlex.split(str(made))[4:] == shlex.split(made.flags_text)
    assert [made.values(flag) for flag in FLAGS] == [[value for f, value in made.flags if f == flag] for flag in FLAGS]
    assert made.is_confirmation == ("--confirm" in dict(made.flags))


def test_a_call_has_no_flags_of_a_command_line() -> None:
    made = Command("question", is_call=True).with_flags(seeds=4)
    assert made is not None
    assert made.flags_text == ""


def test_a_store_is_named_where_it_is_not_the_default_and_a_call_names_its_own() -> None:
    assert str(command("--seeds 3").on("/my store")) == "python -m sweeps.run a --seeds 3 --store '/my store'"
    assert command("--seeds 3").on(None) == command("--seeds 3")
    call = Command("question", is_call=True)
    assert call.on("/my store") == call


def test_nothing_is_confirmed_in_a_notebook() -> None:
    call = Command("x", is_call=True)
    assert call.with_flags(confirm=2, seeds=4) is None
    assert call.with_flags(at={"train_tokens": 8}) is None
    assert str(call.with_flags(seeds=4)) == "run_sweep(…, 'x') with --seeds 4"
    assert str(call.with_flags(sweep={"dropout": "0,0.1"})) == "run_sweep(…, 'x') with --sweep dropout=0,0.1"


def test_a_flag_that_is_there_is_replaced() -> None:
    made = command("--set d_model=64 --sweep learning_rate=1e-3,2e-3 --seeds 2")
    assert str(made.with_flags(sweep={"learning_rate": "1,2"}, seeds=4)) == (
        "python -m sweeps.run a --set d_model=64 --sweep learning_rate=1,2 --seeds 4"
    )
    confirming = command("--set d_model=64 --sweep learning_rate=1e-3,2e-3 --seeds 2 --confirm 2")
    assert str(confirming.with_flags(seeds=5)).endswith("--confirm 2 --seeds 5")
    assert "--confirm" not in str(confirming.with_flags(sweep={"warmup_ratio": "0,0.1"}))
    there = (("--at", "train_tokens=8"), ("--at", "d_model=9"))
    longer = Command("a", (*confirming.flags, *there)).with_flags(at={"train_tokens": 16})
    assert str(longer) == f"{confirming} --at d_model=9 --at train_tokens=16"
    assert longer is not None
    assert str(longer.with_flags(set={"dropout": 0, "d_model": 8})) == (
        "python -m sweeps.run a --sweep learning_rate=1e-3,2e-3 --seeds 2 --set train_tokens=16 --set dropout=0 "
        "--set d_model=8"
    )
    assert str(made.with_flags(set={"d_model": 8})) == (
        "python -m sweeps.run a --sweep learning_rate=1e-3,2e-3 --seeds 2 --set d_model=8"
    )


@given(commands, st.integers(1, 9))
def test_a_flag_is_given_once_and_all_others_stay_in_their_order(made: Command, seeds: int) -> None:
    changed = made.with_flags(seeds=seeds)
    assert changed is not None
    assert changed.values("--seeds") == [str(seeds)]
    assert changed.flags[:-1] == tuple(flag for flag in made.flags if flag[0] != "--seeds")
    assert changed.with_flags(seeds=seeds) == changed
