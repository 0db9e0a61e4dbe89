"""What a run's records show of its commands: all but the secrets."""

from __future__ import annotations

from collections.abc import Sequence

from pai_runner.command import Job, Statement
from pai_runner.jobs.runs import Step
from pai_runner.run.secrets import SecretStore
from pai_runner.run.shown import shown_statement
from pai_runner.secret import redact_secrets


def shown_statements(jobs: Sequence[Job]) -> tuple[Statement, ...]:
    """Return the statements of jobs without secrets, masked as the jobs' own records are.

    One that holds none comes back as it is.
    """
    # All first: from then on the values that were found are masked in every text.
    words = [SecretStore().hide_words(job.user_defined_parameters) for job in jobs]
    return tuple(map(_shown, jobs, words))


def steps_of(jobs: Sequence[Job], shown: Sequence[Statement]) -> tuple[Step, ...]:
    """Return the steps of a run that has not begun. `shown` are its jobs' statements, masked."""
    return tuple(
        Step(statement.text.strip(), redact_secrets(job.job_name or job.script.name))
        for job, statement in zip(jobs, shown, strict=True)
    )


def _shown(job: Job, words: Sequence[str]) -> Statement:
    is_plain = tuple(words) == job.user_defined_parameters
    return shown_statement(job, None if is_plain else " ".join(words))
