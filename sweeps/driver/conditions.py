"""For `sweeps.reproduce`: the recorded run's data and trainer, a like device, and a line for each difference here."""

import gzip
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from sweeps.driver import provenance
from sweeps.driver.provenance import versions
from sweeps.spec.catalog import load_experiment
from sweeps.spec.config_type import Config, from_params, loaded
from sweeps.store import schema
from sweeps.store.read import Store
from sweeps.store.schema import RunRow
from sweeps.trainers.source import source_of
from sweeps.trainers.trainer_file import TrainerFile, trainer_file
from tinylm_core.config import RunConfig
from tinylm_core.corpus import load_corpus
from tinylm_core.machine import conditions, this_machine


def with_same_data(store: Store, row: RunRow, folder: Path) -> RunConfig:
    """The run's config, its data taken from the store where this machine's differs. ValueError where neither has it."""
    assert row.config
    fingerprint = row.tags[schema.FINGERPRINT]
    try:
        found = load_corpus(row.config).fingerprint
        if found == fingerprint:
            return row.config
        problem = f"data={row.config.data!r} has changed since"
    except ValueError as error:
        problem = str(error)
    try:
        packed = store.artifacts.download(row.tags[schema.SUMMARY_RUN], f"corpus/{fingerprint}.txt.gz", folder)
    except ValueError:
        raise ValueError(f"{problem}, and the store keeps no copy of the corpus {fingerprint[:12]}") from None
    text = folder / f"{fingerprint}.txt"
    text.write_bytes(gzip.decompress(packed.read_bytes()))
    config = row.config.replace({"data": str(text)})
    if load_corpus(config).fingerprint != fingerprint:
        raise ValueError(f"{problem}, and the store's copy of the corpus {fingerprint[:12]} is damaged")
    click.echo(f"  {problem}; trained on the store's copy")
    return config


NONE_SET = "none of those that change bits"


@dataclass(frozen=True)
class RecordedTrainer:
    """The trainer of a recorded run, as its file has it today."""

    file: TrainerFile
    config_class: type[Config]


def recorded_config(store: Store, row: RunRow, config_class: type[Config]) -> Config:
    """The config that a run was trained with, typed: MLflow's params are texts for people, and cut where they are long.

    From the run's config.json; where that has not arrived, as of an interrupted run, from its plan; else from params.
    """
    text = store.artifacts.read_text(row.run_id, schema.CONFIG)
    if text is not None:
        return loaded(config_class, json.loads(text))
    plans = (known.plan for known in store.definitions(store.sweep_of(row)) if known.plan is not None)
    made_by = next((plan for plan in plans if plan.definition == row.tags.get(schema.DEFINITION)), None)
    trials = made_by.trials if made_by else ()
    trial = next((trial for trial in trials if trial.number == row.trial), None)
    if made_by is None or trial is None or row.seed is None:
        return from_params(config_class, row.params)
    return loaded(config_class, dict(made_by.base) | trial.setting | {"seed": row.seed})


def own_trainer(store: Store, row: RunRow, given: str | None, agreed: Callable[[str], bool]) -> RecordedTrainer:
    """The trainer of a run's sweep, from the file `given`, else the recorded one. ValueError where it can't be had.

    A recorded file is code that whoever wrote the record has chosen. It is executed where the store is a folder and the
    file is what it was then, by its digest, or where somebody has `agreed` to it.
    """
    recorded = row.tags[schema.FILE]
    if given is None:
        if not store.is_local and not agreed(recorded):
            raise ValueError(
                f"run {row.run_id} ({row.name}): {store.where} names {recorded} as the file of its trainer, which is "
                "not run on a server's word; --file PATH says which file to run"
            )
        path = Path(recorded)
        if store.is_local and path.is_file():
            here = source_of(path, path.read_bytes()).sha256
            if here != row.tags.get(schema.TRAINER_SOURCE, here):
                raise ValueError(
                    f"run {row.run_id} ({row.name}): the trainer in {recorded}, or what it imports from beside it, is "
                    f"not what it was; --file {shlex.quote(recorded)} trains with what it is now"
                )
    experiment = load_experiment(given or recorded)
    file = trainer_file(experiment)
    if file is None:
        raise ValueError(f"run {row.run_id} ({row.name}): the sweep in {experiment.file} has no trainer of its own now")
    return RecordedTrainer(file, type(experiment.sweep.base))


def here_and_there(store: Store, row: RunRow, trainer: RecordedTrainer | None) -> tuple[str, list[str]]:
    """The device to train on, and a line for each condition that is not as recorded."""
    device = device_like(row.tags.get(schema.DEVICE, "cpu"))
    tags = provenance.run_tags(conditions(device, int(row.tags.get(schema.THREADS, 1))))
    if trainer is not None:
        tags |= {schema.TRAINER: trainer.file.version, schema.TRAINER_SOURCE: trainer.file.source.sha256}
    keys = [key for key in tags if key.endswith(".version") or key.startswith(("machine.", "code.", "trainer."))]
    if schema.VARIABLES in row.tags | tags:  # a tag only where one is set
        tags = {schema.VARIABLES: NONE_SET} | tags
        row = replace(row, tags={schema.VARIABLES: NONE_SET} | row.tags)
        keys = list(dict.fromkeys([*keys, schema.VARIABLES]))
    whose = {schema.TRAINER_SOURCE: " (the trainer's code, or what it imports from beside it)"}
    lines = [
        f"{key}{whose.get(key, '')}: recorded {row.tags[key]}, here {tags[key]}"
        for key in [*keys, schema.COMMIT]
        if key in row.tags and row.tags[key] != tags[key]
    ]
    if (
        row.tags.get(schema.DIRTY) == tags[schema.DIRTY] == "true"
        and (store.artifacts.read_text(row.run_id, schema.DIFF) or "") != provenance.code().diff
    ):
        lines.append("code.diff: the uncommitted changes are not the recorded ones")
    if trainer is not None:  # which may use any of them
        lines += package_differences(
            store.artifacts.read_text(row.run_id, schema.ENVIRONMENT) or "", provenance.environment()
        )
    return device, lines


def device_like(recorded: str) -> str:
    """The device here for a run with that `machine.device`: the first GPU of that name, or else the first of all."""
    first = this_machine("cpu" if recorded == "cpu" else None).device
    gpus = (f"cuda:{index}" for index in range(torch.cuda.device_count() if first == "cuda" else 0))
    return next((gpu for gpu in gpus if conditions(gpu, 1)["machine.device"] == recorded), first)


def package_differences(recorded: str, here: str) -> list[str]:
    """A line for each installed package of environment.txt that is another here; none where there is no record."""
    then, now = versions(recorded), versions(here)
    both = sorted(then.keys() | now.keys()) if then else []
    return [
        f"{name}: recorded {then.get(name, 'none')}, here {now.get(name, 'none')}"
        for name in both
        if then.get(name) != now.get(name) and name not in ("torch", "numpy", "tokenizers")  # which are tags
    ]
