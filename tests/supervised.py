"""Runs scripts through the local engine without the bootstrap: the script is the role's program.

As a program, `python supervised.py JSON`, it is a launcher: it submits a job, waits and ends with
its exit code, as `pai` does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pai_runner.engines.local import Handle, submit
from pai_runner.jobs.directory import JobDirectory, all_ids, create
from pai_runner.jobs.record import Record, load, read
from pai_runner.run.outcome import Outcome
from pai_runner.run.plan import Limits, Plan, Publish, RolePlan

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "PAI_TEST_TOKEN"

# A script with a grandchild in a session of its own, which forgets where it comes from: it shows
# its token on its command line alone. `ready` is printed when all of it is there.
WITH_GRANDCHILD = """
    import os, sys, time
    token = os.environ["PAI_TEST_TOKEN"]
    told, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            code = "import os, sys, time; os.write(%d, b'x'); time.sleep(600)" % tell
            os.set_inheritable(tell, True)
            os.execve(sys.executable, [sys.executable, "-S", "-c", code, token], {})
        os._exit(0)
    os.wait()
    os.read(told, 1)
    print("ready", flush=True)
    time.sleep(600)
"""


def make_plan(directory: JobDirectory, script: str, **options: Any) -> Plan:
    """Return a plan of one role that runs `script` with this interpreter."""
    environment = {"PAI_JOB_DIR": directory.path, **options.pop("environment", {})}
    working_directory = options.pop("working_directory", str(Path(script).parent))
    role = RolePlan(
        name="worker",
        index=0,
        interpreter=options.pop("interpreter", sys.executable),
        script=script,
        arguments=(),
        working_directory=working_directory,
        environment=environment,
    )
    roles = options.pop("roles", (role,))
    publish = Publish("/exports/", 5) if options.pop("publishes", False) else None
    return Plan(
        job_id=directory.id,
        job_name="test",
        algorithm="tensorflow",
        command="PAI -name tensorflow;",
        code=directory.code,
        tf_api="v2",
        tf_api_reason="",
        roles=roles,
        mounts=(),
        limits=Limits(**{"grace_seconds": 5.0, **options}),
        publish=publish,
    )


@dataclass
class Result:
    """What a job that was run in this process came to."""

    outcome: Outcome
    stdout: bytes
    stderr: bytes
    directory: JobDirectory

    @property
    def record(self) -> Record:
        return load(self.directory)


@dataclass
class Jobs:
    """Jobs with records of their own, whose processes can all be told by a token."""

    folder: Path
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def script(self, text: str, name: str = "script.py") -> str:
        path = self.folder / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return str(path)

    def submit(
        self,
        text: str,
        secrets: dict[str, str] | None = None,
        detach: bool = False,
        **options: Any,
    ) -> Handle:
        directory = create(self.home)
        script = self.script(text)
        options.setdefault("environment", {})[TOKEN] = self.token
        plan = make_plan(directory, script, **options)
        return submit(plan, directory, secrets or {}, detach, bootstrap=script)

    def run(self, text: str, **options: Any) -> Result:
        handle = self.submit(text, **options)
        with (self.folder / "out").open("w+b") as out, (self.folder / "err").open("w+b") as err:
            outcome = handle.wait(out.fileno(), err.fileno())
            out.seek(0)
            err.seek(0)
            return Result(outcome, out.read(), err.read(), handle.directory)

    def launch_command(self, text: str, **options: Any) -> list[str]:
        order = {"home": str(self.home), "script": self.script(text), "options": options}
        return [sys.executable, __file__, json.dumps(order)]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), TOKEN: self.token}

    def launch(self, text: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a launcher in a session of its own; its output is piped."""
        return subprocess.Popen(
            self.launch_command(text, **options),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def directory(self) -> JobDirectory:
        """The newest job."""
        return JobDirectory(self.home, all_ids(self.home)[0])

    @property
    def record(self) -> Record:
        return read(self.directory)

    def printed(self, text: str = "ready") -> bool:
        """Tell whether the newest job's script has printed `text`."""
        if not all_ids(self.home):
            return False
        try:
            return text in Path(self.directory.role("worker-0").stdout).read_text()
        except FileNotFoundError:
            return False

    def left(self) -> list[str]:
        """Return the living processes of these jobs and their launchers, but for this one."""
        found = (_describe(int(name), self.token) for name in os.listdir("/proc") if name.isdigit())
        return [text for text in found if text]

    def kill_left(self) -> None:
        """Clean up after a failed test."""
        for text in self.left():
            os.kill(int(text.split(":")[0]), signal.SIGKILL)


def _describe(pid: int, token: str) -> str:
    if pid == os.getpid():
        return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        variables = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    zombie = stat.rpartition(")")[2].split()[0] == "Z"
    if zombie or token.encode() not in words + variables:
        return ""
    return f"{pid}: {words.replace(bytes(1), b' ').decode(errors='replace')}"


def jobs_in(folder: Path) -> Iterator[Jobs]:
    """Give jobs in `folder`; afterwards nothing of them may be left."""
    jobs = Jobs(folder)
    try:
        yield jobs
        left = jobs.left()
        assert left == [], left
    finally:
        jobs.kill_left()


def main() -> int:
    """Launch the job that the first argument describes; return its exit code."""
    order = json.loads(sys.argv[1])
    options = order["options"]
    detach = options.pop("detach", False)
    directory = create(order["home"])
    plan = make_plan(directory, order["script"], **options)
    handle = submit(plan, directory, {}, detach, bootstrap=order["script"])
    if detach:
        print(handle.job_id)
        return 0
    return handle.wait().exit_code


if __name__ == "__main__":
    sys.exit(main())
