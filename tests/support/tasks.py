"""Tasks of trainings."""

import torch


def without_trainer(task):
    """The task, which keeps what it logs in `logged`."""
    task.logged = {}
    task.log = lambda name, value, **_: task.logged.update({name: float(torch.as_tensor(value).detach())})
    return task
