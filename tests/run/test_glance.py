"""Looking at running jobs: what cannot be read of one is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pai_runner.jobs.directory import create
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, RoleProcess, write
from pai_runner.jobs.state import State
from pai_runner.run.glance import Glance

DAMAGES = ["log is a loop of links", "log is a folder", "role is a file", "attempt is a file"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_log_that_cannot_be_read_is_left_out(tmp_path: Path, damage: str) -> None:
    directory = create(tmp_path)
    roles = (RoleProcess("worker-0"), RoleProcess("worker-1"))
    me = Identity.of(os.getpid())
    write(directory, Record(directory.id, "j", State.RUNNING, supervisor=me, roles=roles))
    broken, whole = directory.role("worker-0"), directory.role("worker-1")
    whole.create()
    Path(whole.stdout).write_text("step = 7\n")
    if damage == "log is a loop of links":
        broken.create()
        os.symlink("stderr", broken.stderr)
        Path(broken.stdout).write_text("step = 5\n")
    elif damage == "log is a folder":
        os.makedirs(broken.stdout)
    elif damage == "role is a file":
        Path(broken.path).write_text("")
    else:
        Path(whole.path).parent.rename(tmp_path / "away")
        Path(whole.path).parent.write_text("")
    (job,) = Glance(tmp_path).look(0.0)
    steps = {"log is a loop of links": [5, 7], "attempt is a file": [None, None]}
    assert [role.step for role in job.roles] == steps.get(damage, [None, 7])
