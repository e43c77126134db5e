"""Write an experiment file that runs as it is, sized for a text of yours.

    python -m sweeps.new my_sweep --data corpus.txt

A small grid over learning rate and warmup; a comment on each line says what may stand there instead.
"""

import importlib.util
import shlex
from pathlib import Path

import click

from sweeps.terminal.command import DONE, help_of, run_command


@click.command(help=help_of(__doc__))
@click.argument("name")
@click.option("--data", required=True, metavar="PATH", help="A UTF-8 text, a folder of them, token files, or hf:NAME.")
def new(name: str, data: str) -> int:
    # pydantic and NumPy, which --help need not wait for
    from sweeps.spec.catalog import list_experiments
    from sweeps.spec.naming import check_name
    from sweeps.spec.template import NUM_SETTINGS, SEEDS, experiment_text, fitting_size

    file = Path(name if name.endswith(".py") else f"{name}.py")
    check_name(file.stem)
    if file.stem in list_experiments():
        raise ValueError(f"{file.stem} is an included experiment; choose another name")
    if not file.parent.is_dir():
        raise ValueError(f"{file.parent} is no folder")
    if file.exists():
        raise ValueError(f"{file} is there already, and nothing is overwritten; choose another name")
    module = importlib.util.find_spec(file.stem)
    if module is not None and module.origin:  # without, a folder
        raise ValueError(f"{file.stem} is a Python module, which a file of that name would hide; choose another name")
    size = fitting_size(data)
    text = experiment_text(file, data, size)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ValueError(f"{file} is there already, and nothing is overwritten; choose another name") from None
    shown = shlex.quote(str(file))
    click.echo(f"{file}: {NUM_SETTINGS} settings x {SEEDS} seeds, {size.train_tokens:,} tokens a run")
    click.echo(f"What it would run and cost: python -m sweeps.run {shown} --dry-run")
    click.echo(f"Run it: python -m sweeps.run {shown}")
    return DONE


if __name__ == "__main__":
    run_command(new)
