"""Tasks of a bundle that differ in parameter values alone, as rows of one task, and their results apart again.

A worker runs them so: a small circuit takes a microsecond a row and thirty a task. Pure. Shots are left out, since each
task draws them by a seed of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec
import numpy as np

from qsimenv.qpm_plugin.messages import Job
from qsimenv.task import Result, Task

Named = tuple[str, Job]
"""A task's id and its job."""


def alike(tasks: Iterable[Named]) -> list[list[Named]]:
    """The tasks, in order: those that follow each other and can be rows of one task together, all others alone."""
    return [list(group) for _, group in groupby(tasks, key=_kind)]


def _kind(named: Named) -> object:
    """What tasks have in common that can be rows together; a task that cannot has its id for itself."""
    task_id, job = named
    task, values = job.task, job.task.parameters
    if values is None or values.ndim != 1 or not task.observables or task.time_limit_s is not None:
        return task_id
    if task.shots is not None or task.save is not None:
        return task_id
    return job.circuit, task.observables, task.precision, task.engine, task.device, len(values)


def as_one(tasks: Sequence[Named]) -> Job:
    """One job with a row for each task."""
    first = tasks[0][1]
    values = [job.task.parameters for _, job in tasks if job.task.parameters is not None]
    together: Task = msgspec.structs.replace(first.task, parameters=np.stack(values))
    return Job(first.circuit, together)


def apart(result: Result, tasks: Sequence[Named]) -> list[Result]:
    """The result of each task, with its share of the seconds, and the seed that it came with."""
    values = result.expectation_values
    assert values is not None  # noqa: S101 - all rows have observables
    metadata = result.metadata
    seconds = {name: round(value / len(tasks), 9) for name, value in metadata.get("seconds", {}).items()}
    return [
        Result(
            num_clbits=result.num_clbits,
            registers=result.registers,
            expectation_values=row,
            metadata={**metadata, "seconds": seconds} | ({} if job.task.seed is None else {"seed": job.task.seed}),
        )
        for row, (_, job) in zip(values, tasks, strict=True)
    ]
