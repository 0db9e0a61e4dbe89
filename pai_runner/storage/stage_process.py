"""The mover: one process per job that copies staged locations in, and back.

    mover.py JOB_DIRECTORY CONTROL REPORT PHASE

It is the supervisor's child, in a session of its own. PHASE is `stage`, or `attach` where an
earlier mover of the job died and the script runs. CONTROL is a pipe from the supervisor with the
lines `look` (make a pass now), `finish clean`, `finish killed` and `stop`; its end is as `stop`.
REPORT is a pipe to it, one JSON object a line: {"staged": …} when the script may start,
{"failed": …} when it cannot, {"finished": …} at the end. What a user should see goes to standard
error.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pai_runner.errors import ExitCode, PaiError, SetupError
from pai_runner.secret import receive, redact, resolve
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.names import has_plain_parts
from pai_runner.storage.stage_back import CopyBack, Moment, Outcome
from pai_runner.storage.stage_folder import StageFolder, digest_of
from pai_runner.storage.stage_in import CopyIn, check_space
from pai_runner.storage.stage_progress import Progress, in_words, say
from pai_runner.storage.transfer import Bucket, Stopped

# The time between two passes, in seconds, unless PAI_STAGE_SECONDS says otherwise.
_PASS_SECONDS = 10.0
# Waits before the last copy is tried again, in seconds.
_FINISH_AGAIN_AFTER = (2.0, 8.0)
# How long uploads get to be aborted, in seconds.
_STOP_SECONDS = 5.0


def main(arguments: Sequence[str]) -> None:
    """Run the mover; see the module for its arguments. Does not return."""
    job_directory, control, report, phase = arguments
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(int(control), False)
    os.set_inheritable(int(report), False)
    # All threads inherit this: a thread waits for the signal, where a handler would run between
    # any two steps of the main thread, which may hold the very locks that `stop` needs.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    mover = Mover(int(control), int(report))
    os._exit(mover.run(job_directory, phase))


class Mover:
    """The process's state: its pipes, its stages and whether it goes on."""

    def __init__(self, control: int, report: int) -> None:
        self._control = control
        self._report = report
        self._orders: queue.Queue[str] = queue.Queue()
        self._stopping = threading.Event()
        self._stages: list[Stage] = []
        self._seconds = _PASS_SECONDS
        self._is_finished = False

    def stop(self) -> None:
        """Give up: what is under way is aborted, and the process ends soon."""
        if not self._stopping.is_set() and not self._is_finished:
            self._stopping.set()
            for stage in list(self._stages):
                stage.bucket.close()
            self._orders.put("stop")
            timer = threading.Timer(_STOP_SECONDS, os._exit, [int(ExitCode.SETUP)])
            timer.daemon = True
            timer.start()

    def run(self, job_directory: str, phase: str) -> int:
        """Run to the end; return the exit code."""
        for listen in (self._listen, self._await_signal):
            threading.Thread(target=listen, daemon=True).start()
        try:
            self._begin(job_directory, phase)
            while not (order := self._next_order()).startswith("finish "):
                for stage in self._stages:
                    stage.copy_back(Moment.RUNNING)
            self._finish(Moment(order.removeprefix("finish ")))
        except Stopped:
            return int(ExitCode.SETUP)
        except PaiError as error:
            self._tell_failure(error)
            return int(error.exit_code)
        except Exception as error:
            say("".join(traceback.format_exception(error)))
            text = f"staging failed: {type(error).__name__}: {describe_error(error)}"
            self._tell_failure(SetupError(text, "see the log above; mount=stream needs no staging"))
            return int(ExitCode.SETUP)
        return int(ExitCode.OK)

    # ====== Beginning ======

    def _begin(self, job_directory: str, phase: str) -> None:
        secrets = receive(int(os.environ["PAI_SECRETS_FD"]))
        self._seconds = _seconds_between_passes(os.environ)
        with open(os.path.join(job_directory, "spec.json"), encoding="utf-8") as file:
            mounts = _staged(json.load(file)["mounts"])
        for mount in _outermost(mounts):
            options = {name: resolve(text, secrets) for name, text in mount["options"].items()}
            bucket = Bucket(mount["prefix"], mount["protocol"], options, self._stopping)
            folder = StageFolder(mount["folder"], digest_of(mount["prefix"], options))
            self._stages.append(Stage(bucket, folder))
        copied = self._attach() if phase == "attach" else self._copy_in()
        for mount in mounts if phase == "stage" else ():
            _make_folder(mount)
        self._tell({"staged": copied})

    def _attach(self) -> dict[str, int]:
        for stage in self._stages:
            stage.folder.attach()
        return {"files": 0, "bytes": 0}

    def _copy_in(self) -> dict[str, int]:
        copies = []
        needed = []
        for stage in self._stages:
            stage.bucket.check()
            stage.folder.take()
            copy = CopyIn(stage.bucket, stage.folder)
            with _explained(stage):
                needed.append(copy.prepare())
            copies.append(copy)
        if copies:
            check_space(copies[0].folder.root, sum(needed))
        for stage, copy, total in zip(self._stages, copies, needed, strict=True):
            prefix = stage.bucket.prefix
            with _explained(stage), Progress(f"staging {prefix}", total) as progress:
                copy.run(progress)
            say(f"staged {prefix}: {_counted(copy.files, copy.bytes)}")
        return {
            "files": sum(copy.files for copy in copies),
            "bytes": sum(copy.bytes for copy in copies),
        }

    # ====== The end ======

    def _finish(self, moment: Moment) -> None:
        report: dict[str, Any] = {
            "files": 0,
            "bytes": 0,
            "deleted": 0,
            "conflicts": [],
            "not_copied": [],
            "error": "",
        }
        for stage in self._stages:
            stage.finish(moment, report)
        # Before the report: once it is told, the mover may be killed, and the next job may begin.
        for stage in self._stages:
            stage.keep()
        self._tell({"finished": report})
        self._is_finished = True  # the supervisor may go
        # After the report: whoever takes over from here must not find a folder half removed.
        for stage in self._stages:
            stage.remove()

    # ====== Talking with the supervisor ======

    def _listen(self) -> None:
        with open(self._control, encoding="utf-8") as stream:
            for line in stream:
                if line.strip() == "stop":
                    break
                self._orders.put(line.strip())
        self.stop()

    def _await_signal(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.stop()

    def _next_order(self) -> str:
        """Return the next order, or nothing when it is time for a pass. Raises Stopped."""
        try:
            order = self._orders.get(timeout=self._seconds)
        except queue.Empty:
            return ""
        if order == "stop":
            raise Stopped
        return order

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            os.write(self._report, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise Stopped from None

    def _tell_failure(self, error: PaiError) -> None:
        failure = {
            "failed": redact(error.message),
            "hint": redact(error.hint or ""),
            "exit_code": int(error.exit_code),
        }
        try:
            self._tell(failure)
        except Stopped:
            say(f"error: {error.message}")


class Stage:
    """One staged location, while its script runs."""

    def __init__(self, bucket: Bucket, folder: StageFolder) -> None:
        self.bucket = bucket
        self.folder = folder
        self._said: set[str] = set()
        self._back: CopyBack | None = None
        self._is_complete = False

    def copy_back(self, moment: Moment) -> Outcome:
        """Run one pass, and say what is new of what went wrong."""
        if self._back is None:
            self._back = CopyBack(self.bucket, self.folder.files, self.folder.manifest)
        outcome = self._back.run(moment)
        lines = {f"{name}: {reason}" for name, reason in outcome.failures.items()}
        lines |= {f"{name}: {reason}" for name, reason in outcome.ignored.items()}
        lines |= {
            f"{name}: changed in the bucket meanwhile, and not overwritten or removed"
            for name in outcome.conflicts
        }
        if self.folder.manifest.problem:
            lines.add(f"the record of copies cannot be written: {self.folder.manifest.problem}")
        for line in sorted(lines - self._said):
            say(f"{self.bucket.prefix}{line}")
        self._said = lines
        return outcome

    def finish(self, moment: Moment, report: dict[str, Any]) -> None:
        """Copy back what is left, and add to `report` what was done and what was not."""
        outcome = self.copy_back(moment)
        for seconds in _FINISH_AGAIN_AFTER:
            if not outcome.is_transient:
                break
            if self.bucket.stopping.wait(seconds):
                raise Stopped
            outcome = self.copy_back(moment)
        assert self._back is not None
        prefix = self.bucket.prefix
        left = {**outcome.later, **outcome.failures}
        is_gone = not os.path.isdir(self.folder.files)
        self._is_complete = not (left or outcome.conflicts or is_gone)
        report["files"] += self._back.files
        report["bytes"] += self._back.bytes
        report["deleted"] += self._back.deleted
        report["conflicts"] += sorted(prefix + name for name in outcome.conflicts)
        report["not_copied"] += sorted(f"{prefix}{name}: {why}" for name, why in left.items())
        if is_gone:
            report["error"] = f"{self.folder.files} is gone: nothing of it was copied back"
        elif outcome.failures:
            name, why = next(iter(outcome.failures.items()))
            report["error"] = f"{prefix}{name}: {why}"
        say(f"copied back {prefix}: {_counted(self._back.files, self._back.bytes)}")
        for line in [] if self._is_complete else report["not_copied"]:
            say(f"not copied back: {line}")

    def keep(self) -> None:
        """Leave the folder to its owner unless all of it is in the bucket."""
        if not self._is_complete and os.path.isdir(self.folder.root):
            self.folder.keep()
            say(f"{self.folder.files} stays, for what is not in {self.bucket.prefix}")

    def remove(self) -> None:
        """Remove the folder if all of it is in the bucket."""
        if self._is_complete:
            try:
                self.folder.remove()
            except OSError as error:  # nothing is lost, and the other folders are still to go
                say(f"{self.folder.root} cannot be removed: {describe_error(error)}")


@contextmanager
def _explained(stage: Stage) -> Iterator[None]:
    """Turn failures of the disk and of the bucket into a SetupError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or failure_of(error) is not Failure.OTHER:
            raise SetupError(
                f"{stage.bucket.prefix} cannot be copied to {stage.folder.files}: "
                + describe_error(error),
                "check the network, the permissions and the space of the disk (PAI_STAGE_DIR)",
            ) from error
        raise


def _counted(files: int, size: int) -> str:
    return f"{files} {'file' if files == 1 else 'files'}, {in_words(size)}"


# ====== The hand-over ======


def _seconds_between_passes(environment: Mapping[str, str]) -> float:
    text = environment.get("PAI_STAGE_SECONDS") or str(_PASS_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise SetupError(f"PAI_STAGE_SECONDS={text} is no time", "give seconds, for example 10")
    return seconds


def _staged(mounts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the staged mounts, a folder before those that lie in it. Raises SetupError."""
    staged = [
        {**mount, "folder": mount["folder"].rstrip("/")}
        for mount in mounts
        if mount.get("mode") == "stage"
    ]
    for mount in staged:
        _check_parts(mount["prefix"], mount["prefix"].partition("://")[2].removesuffix("/"))
        _check_parts(mount["folder"], mount["folder"].removeprefix("/"))
    return sorted(staged, key=lambda mount: len(mount["folder"]))


def _outermost(mounts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those whose folder is, or lies in, no earlier one's. Raises SetupError.

    All that a staged folder holds is removed in the end: no other folder will do.
    """
    found: list[dict[str, Any]] = []
    for mount in mounts:
        if not any(f"{mount['folder']}/".startswith(f"{one['folder']}/") for one in found):
            if not re.fullmatch(r"(/[^/]+)+/files", mount["folder"]):
                raise SetupError(
                    f"{mount['folder'] or '/'} cannot be the staged folder of {mount['prefix']}",
                    "the plan of this job is damaged: give the command again",
                )
            found.append(mount)
    return found


def _check_parts(path: str, parts: str) -> None:
    """Refuse a path that may lead out of its folder. Raises SetupError."""
    if not has_plain_parts(parts):
        raise SetupError(
            f"{path} cannot be staged: it has an empty part, `.` or `..`",
            "write the location without them, or use mount=stream",
        )


def _make_folder(mount: Mapping[str, Any]) -> None:
    """Make the folder of a location, which may lie in that of another. Raises SetupError."""
    try:
        os.makedirs(mount["folder"], exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SetupError(
            f"{mount['prefix']} cannot be staged: in the bucket it, or what it lies in, is a file",
            "give a directory, or remove that file",
        ) from error
