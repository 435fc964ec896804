"""Tasks: the loss, the distillation loss and the metrics of one kind of target each, one kind per file."""

from __future__ import annotations

from typing import Literal

from hetfed_lightning.tasks.binary import BinaryTask
from hetfed_lightning.tasks.multiclass import MulticlassTask
from hetfed_lightning.tasks.multilabel import MultilabelTask
from hetfed_lightning.tasks.regression import RegressionTask
from hetfed_lightning.tasks.task import Task

__all__ = ["TASKS", "BinaryTask", "MulticlassTask", "MultilabelTask", "RegressionTask", "Task", "TaskName", "as_task"]

TaskName = Literal["multiclass", "binary", "multilabel", "regression"]

TASKS: dict[TaskName, type[Task]] = {
    "multiclass": MulticlassTask,
    "binary": BinaryTask,
    "multilabel": MultilabelTask,
    "regression": RegressionTask,
}


def as_task(task: Task | TaskName) -> Task:
    """The task itself, or a new task with the defaults of the kind that is named.

    Args:
        task: A :class:`Task`, or one of the names in ``TASKS``.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)} or a Task, got {task!r}.")
    return TASKS[task]()
