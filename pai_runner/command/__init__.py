"""What was asked: a PAI command's text -> Statement -> Job.

Pure: no files, no clock, no environment. The dates in a text (`command.dates`) are filled in before
all this; they are imported by those who need them.
"""

from __future__ import annotations

from pai_runner.command.algorithms import ALGORITHMS, Algorithm, algorithm_rows
from pai_runner.command.arguments import parse_arguments, render
from pai_runner.command.cluster import Cluster, ClusterRole
from pai_runner.command.grammar import Span, Statement, parse, parse_statement, split
from pai_runner.command.job import Job, make_job, script_candidates
from pai_runner.command.parameters import PARAMETERS, Kind, Parameter, Status, rows
from pai_runner.command.settings import apply_settings, property_setting
from pai_runner.command.words import parse_hyper_parameters, split_words

__all__ = [
    # text -> Statement
    "Span",
    "Statement",
    "apply_settings",
    "parse",
    "parse_arguments",
    "parse_statement",
    "property_setting",
    "render",
    "split",
    # Statement -> Job
    "Cluster",
    "ClusterRole",
    "Job",
    "make_job",
    "script_candidates",
    # what values hold
    "parse_hyper_parameters",
    "split_words",
    # the tables
    "ALGORITHMS",
    "Algorithm",
    "Kind",
    "PARAMETERS",
    "Parameter",
    "Status",
    "algorithm_rows",
    "rows",
]
