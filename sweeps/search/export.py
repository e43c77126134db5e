"""A sweep as an Optuna study in a database, for Optuna's own tools. Nothing here reads it again; knows no tracker."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeps.search.studies import range_distribution
from sweeps.spec.settings import is_varied
from sweeps.spec.space import Choice, Range, Space, Value

MARK = "sweep.definition"  # of a study that was exported: only such a one is ever replaced


@dataclass(frozen=True)
class StudyTrial:
    """One trial, its seeds joined."""

    setting: Mapping[str, Value]
    state: Literal["COMPLETE", "FAIL", "RUNNING", "WAITING"]
    objective: float | None  # nats per token; of a complete one
    intermediate: Mapping[int, float]  # tokens trained on → validation loss
    attributes: Mapping[str, Any]
    start: datetime | None  # None of one that waits
    end: datetime | None  # None of one that has not ended


def write_study(
    url: str, name: str, space: Space, trials: Iterable[StudyTrial], attributes: Mapping[str, Any]
) -> str | None:
    """Write a study, minimized, into the database at `url`; one that an earlier call wrote there is replaced.

    Returns the MARK of that where it is another. `attributes` are the study's own and must have MARK. ValueError, in
    one line, where the database can't be used or holds a study of that name, or tables, of somebody else.
    """
    assert MARK in attributes
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = _storage(url)
    before = None
    if name in [study.study_name for study in storage.get_all_studies()]:
        before = optuna.load_study(study_name=name, storage=storage).user_attrs.get(MARK)
        if before is None:
            raise ValueError(f"--optuna: the study {name!r} there is not an exported one; choose another database")
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["validation loss"])
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    for number, trial in enumerate(trials):
        study.add_trial(_frozen(number, trial, space))
    return None if before == attributes[MARK] else before


def _storage(url: str) -> optuna.storages.RDBStorage:
    try:
        engine = sqlalchemy.create_engine(url)
        tables = sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
        if tables and "studies" not in tables:
            raise ValueError(f"--optuna: the database holds other tables ({', '.join(sorted(tables)[:3])}, …)")
        return optuna.storages.RDBStorage(url)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        said = " ".join(str(error).split()).partition(" (Background on this error")[0]
        raise ValueError(f"--optuna: must be a database's address, such as sqlite:///study.db: {said}") from None


def _frozen(number: int, trial: StudyTrial, space: Space) -> FrozenTrial:
    varied = {field: dimension for field, dimension in space.items() if is_varied(dimension, trial.setting)}
    is_running = trial.state in ("RUNNING", "WAITING")
    return FrozenTrial(
        number=number,
        state=TrialState[trial.state],
        value=trial.objective if trial.state == "COMPLETE" else None,
        datetime_start=_local(trial.start),
        datetime_complete=None if is_running else _local(trial.end or trial.start),
        params={field: trial.setting[field] for field in varied},
        distributions={field: _distribution(dimension) for field, dimension in varied.items()},
        user_attrs=dict(trial.attributes),
        system_attrs={},
        intermediate_values=dict(trial.intermediate),
        trial_id=0,  # the database gives its own
    )


def _local(moment: datetime | None) -> datetime | None:
    """Optuna's times are local ones that don't say so."""
    return None if moment is None else moment.astimezone().replace(tzinfo=None)


def _distribution(dimension: Choice | Range) -> BaseDistribution:
    return CategoricalDistribution(dimension.values) if isinstance(dimension, Choice) else range_distribution(dimension)
