"""What reading a script tells before it runs: the flags it declares and its TensorFlow API.

Standard library only: the launcher scans the source and never imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pai_runner.run.flag_declarations import Declarations, Flag, Form
from pai_runner.run.script_sources import Foreign, read_sources
from pai_runner.run.source_names import Constants, Origins
from pai_runner.run.tensorflow_dialect import Dialect, DialectReader, TfApi
from pai_runner.run.tensorflow_dialect import choose_api as _choose_api

__all__ = ["Flag", "Form", "ScriptFlags", "TfApi", "choose_api", "scan"]

# What PAI itself hands to a script.
PLATFORM_FLAGS = (
    "buckets",
    "checkpointDir",
    "summaryDir",
    "volumes",
    "tables",
    "outputs",
    "job_name",
    "task_index",
    "ps_hosts",
    "worker_hosts",
)


@dataclass(frozen=True)
class ScriptFlags:
    """The flags of a script, in the order of their declaration.

    `parsers` are the ones at work: absl, argparse, click, optparse, and, noted without their
    flags, fire, getopt, typer and sys.argv. `tolerant` are those of them that leave unknown words
    alone. `unknown` says, a line each, why there may be flags that are not listed.
    """

    flags: tuple[Flag, ...] = ()
    parsers: frozenset[str] = frozenset()
    tolerant: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    dialect: Dialect = field(default_factory=Dialect)

    @property
    def complete(self) -> bool:
        """Whether `flags` are surely all."""
        return not self.unknown

    def find(self, name: str) -> Flag | None:
        """Return the flag called `name`, else the one that sets argparse's variable `name`."""
        variable = name.replace("-", "_")
        return next(
            (flag for flag in self.flags if flag.name == name),
            next((flag for flag in self.flags if flag.variable == variable), None),
        )


def scan(entry: Path, roots: Sequence[Path] = ()) -> ScriptFlags:
    """Return what the script `entry` declares, with its own modules from its folder and `roots`.

    Raises SetupError, with file and line, where a source is missing or is no Python 3.
    """
    sources = read_sources(entry, roots)
    origins, constants = Origins(), Constants()
    declarations = Declarations(origins, constants)
    dialect = DialectReader(origins)
    for node in sources.nodes:
        origins.learn(node)
        constants.learn(node)
        declarations.meet(node)
        dialect.meet(node)
    unknown = [*sources.unknown, *declarations.unknown]
    if declarations.parsers.isdisjoint(_CLOSED):
        unknown += _declared_elsewhere(declarations, sources.foreign)
    return ScriptFlags(
        flags=tuple(declarations.flags),
        parsers=frozenset(declarations.parsers),
        tolerant=frozenset(declarations.tolerant - declarations.strict),
        unknown=tuple(dict.fromkeys(unknown)),
        dialect=dialect.dialect,
    )


def choose_api(flags: ScriptFlags, forced: str, algorithm_api: str) -> TfApi:
    """Return the TensorFlow API that a scanned script gets; see `tensorflow_dialect`."""
    return _choose_api(flags.dialect, forced, algorithm_api)


# Parsers whose flags are declared where they are used: an installed package adds none.
_CLOSED = frozenset(("argparse", "click", "optparse"))

# Packages that declare no flags, and modules that only Python 2 has. Of any other that is
# installed the scan cannot tell.
_WITHOUT_FLAGS = """
    absl attr attrs bert4keras boto3 botocore builtins bs4 click cv2 dateutil fire fsspec future
    gensim gflags google h5py horovod imageio jieba joblib keras lxml matplotlib msgpack networkx
    nltk numpy odps oss2 ossfs paiio pai_runner pandas past PIL pkg_resources prettytable psutil
    pyarrow pymysql pytz redis regex requests s3fs scipy seaborn setuptools simplejson six skimage
    sklearn skopt sympy tabulate tensorboard tensorboardX tensorflow tensorflow_addons
    tensorflow_hub tf_keras tf_slim torch tqdm typer typing_extensions ujson yaml
    ConfigParser Queue StringIO __builtin__ cPickle cStringIO commands urllib2 urlparse
"""


def _declared_elsewhere(declarations: Declarations, foreign: Sequence[Foreign]) -> list[str]:
    declared = {flag.name for flag in declarations.flags}
    known = {*_WITHOUT_FLAGS.split(), *sys.stdlib_module_names}
    reasons = [
        f"{place}: FLAGS.{name} is read, and declared elsewhere"
        for name, place in declarations.reads.items()
        if name in PLATFORM_FLAGS and name not in declared
    ]
    for module in foreign:
        top = module.name.partition(".")[0]
        if top not in known:
            reasons.append(f"{module.place}: {top} is installed apart, and may declare flags")
    return reasons
