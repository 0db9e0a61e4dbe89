"""What records show of a command: all but its secrets."""

from __future__ import annotations

from dataclasses import replace

from pai_runner.command import Job, Statement, render
from pai_runner.secret import redact_secrets


def shown_statement(job: Job, words_shown: str | None) -> Statement:
    """Return a job's statement without its secrets, all of which must be known by now.

    `words_shown` is userDefinedParameters with references, None where nothing in it is secret. A
    statement that holds no secret comes back as it is.
    """
    typed = job.statement
    parameters = {name: redact_secrets(value) for name, value in typed.parameters.items()}
    options = {name: redact_secrets(value) for name, value in typed.options.items()}
    text = redact_secrets(typed.text)
    if words_shown is not None:
        parameters["userDefinedParameters"] = words_shown
        # Inside quotes a secret may be written with escapes: only a rendering is sure.
        plain = {name: redact_secrets(value) for name, value in parameters.items()}
        text = render(job.algorithm, typed.project, plain, options)
    return replace(typed, text=text, parameters=parameters, options=options)
