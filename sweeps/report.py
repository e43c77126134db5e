"""Write a sweep's report from the store alone, half-finished sweeps included.

    python -m sweeps.report lr_warmup
    python -m sweeps.report --compare lr_warmup post_norm_warmup
    python -m sweeps.report lr_warmup --compare DEFINITION DEFINITION

Leaves index.html, report.md, tables as CSV and figures in STORE/reports/NAME, and the same on the summary run.
--compare holds two sweeps, or two definitions or commits of one, side by side: cells paired by setting and seed.
"""

import click

from sweeps.terminal.command import DONE, help_of, run_command, store_option


@click.command(help=help_of(__doc__))
@click.argument("name", required=False)
@click.option("--compare", nargs=2, metavar="A B", help="Hold two sweeps, or two definitions or commits, side by side.")
@click.option("--definition", metavar="ID", help="A definition of the sweep; the default is the one that was run last.")
@store_option
def report(name: str | None, compare: tuple[str, str] | None, definition: str | None, store: str | None) -> int:
    # pandas and what draws, which --help need not wait for
    from sweeps.answer.publish import publish, publish_answer
    from sweeps.answer.report import make_report
    from sweeps.outbox.errors import WAIT_SECONDS, RefusedError
    from sweeps.outbox.lock import LockHeldError
    from sweeps.outbox.work import drain, locked_work
    from sweeps.store import open_store
    from sweeps.terminal.summary import print_comparison, print_summary

    opened = open_store(store)
    if compare:
        print_comparison(opened, None if name is None else opened.named(name), *compare)
        return DONE
    if name is None:
        raise ValueError(f"name a sweep; {opened.where} has {', '.join(opened.sweeps()) or 'none yet'}")
    name = opened.named(name)
    known = [d.definition for d in opened.definitions(name)]
    try:
        with locked_work(opened, name) as outbox:
            made = make_report(opened, name, definition)
            publish(outbox, opened, made)
            publish_answer(outbox, opened, made)
            drain(outbox, WAIT_SECONDS)
    except (LockHeldError, RefusedError) as why:
        click.echo(f"{why}; this is the report of what is there so far, and it is not put on the summary run")
        made = make_report(opened, name, definition)
    print_summary(opened, made)
    if known and made.results.plan.definition != known[0]:
        click.echo("this is an earlier definition: the commands above run its file as it is now")
    others = [d for d in known if d != made.results.plan.definition]
    if others:
        click.echo(f"other definitions of {name}: python -m sweeps.ls {name}{opened.option} (here --definition ID)")
    return DONE


if __name__ == "__main__":
    run_command(report)
