"""Write text with a trained run.

    python -m sweeps.sample RUN_ID --prompt "The "

The report names the best run's ID, which may be shortened to a unique start.
"""

import tempfile
from pathlib import Path

import click

from sweeps.terminal.command import DONE, FiniteRange, help_of, run_command, store_option


@click.command(help=help_of(__doc__))
@click.argument("run_id")
@click.option("--prompt", help="What the text starts with. Default: a new line, where the text has some.")
@click.option(
    "--max-new-tokens",
    metavar="N",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Tokens after the prompt.",
)
@click.option(
    "--temperature",
    metavar="T",
    type=FiniteRange(0),
    default=0.8,
    show_default=True,
    help="0 takes the likeliest.",
)
@click.option("--top-k", metavar="K", type=click.IntRange(1), help="Only the K likeliest tokens. Default: all.")
@click.option(
    "--top-p",
    metavar="P",
    type=FiniteRange(0, 1, min_open=True),
    help="Only the likeliest that have this share together. Default: 1.",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(0), default=0, show_default=True, help="Another writes another text."
)
@store_option
def sample(
    run_id: str,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    store: str | None,
) -> int:
    # torch, which --help need not wait for
    from sweeps.store import open_store, schema

    opened = open_store(store)
    row = opened.find_run(run_id)
    if schema.TRAINER in row.tags:
        raise ValueError(f"run {row.run_id} ({row.name}) is of a trainer of its own, which alone can use its weights")
    if row.tags.get(schema.WEIGHTS_KEPT) == "false":
        again = f"python -m sweeps.reproduce {row.run_id}{opened.option}"
        raise ValueError(f"run {row.run_id} ({row.name}): the sweep keeps the weights of its best runs only; {again}")
    if row.state != "COMPLETE":
        raise ValueError(f"run {row.run_id} ({row.name}) is {row.state} and has no weights")

    from tinylm_core.checkpoint import load_model
    from tinylm_core.samples import write_text

    with tempfile.TemporaryDirectory() as folder:
        model, _, tokenizer = load_model(opened.artifacts.download(row.run_id, schema.CHECKPOINT, Path(folder)))
    try:
        text = write_text(
            model,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    click.echo(text)
    return DONE


if __name__ == "__main__":
    run_command(sample)
