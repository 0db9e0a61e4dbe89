"""Jobs on oss://, from the command: roles and their refusals, refreshed tokens, and no secrets."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path

import pytest
from oss_server import KEY_ID, MISSING_ROLE, OTHER_KEY_ID, OTHER_SECRET, REFUSED_ROLE, SECRET
from support import ROLE, Pai, Places

pytestmark = pytest.mark.slow

READS = """
    import sys, fsspec
    with fsspec.open(sys.argv[1] + "made.txt", "w") as stream:
        stream.write("made")
    print(fsspec.open(sys.argv[1] + "made.txt").open().read())
"""


def script(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def opened(places: Places, role: str = ROLE) -> str:
    return f"{places.oss}?host={places.oss_server.url}&role_arn={role}"


def command(path: Path, location: str, *more: str) -> list[str]:
    prefix = location.split("?")[0]
    flags = f"-DuserDefinedParameters={prefix}"
    return ["-name", "tensorflow", f"-Dscript={path}", f"-Dbuckets={location}", flags, *more]


# ====== Which credentials ======


def test_a_role_is_assumed_for_the_buckets_of_the_job(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    other = places.oss_server.make_bucket(f"other-{os.getpid()}")
    where = f"{opened(places)},oss://{other}/?host={places.oss_server.url}&role_arn={ROLE}"
    ran = pai(*command(script(tmp_path, READS), where))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "b'made'\n"
    (job,) = json.loads(pai("jobs", "--json").stdout)
    call = places.oss_server.calls_of_sts()[-1]
    assert call["role_arn"] == ROLE
    assert call["session_name"] == f"pai-{job['id']}"
    resources = json.loads(call["policy"])["Statement"][0]["Resource"]
    bucket = places.oss.split("/")[2]
    assert sorted(resources) == sorted(
        f"acs:oss:*:*:{name}{end}" for name in (bucket, other) for end in ("", "/*")
    )


def test_role_and_host_of_the_command_open_plain_locations(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    role = [f"-Darn={ROLE}", f"-DossHost={places.oss_server.url}"]
    bucket, _, key = places.oss.removeprefix("oss://").partition("/")
    uploaded = pai(*command(script(tmp_path, READS), places.oss, *role))
    assert uploaded.returncode == 0, uploaded.stderr
    text = f"import fsspec\nwith fsspec.open('{places.oss}x.py', 'w') as f: f.write('print(7)')"
    assert pai(*command(script(tmp_path, text), places.oss, *role)).returncode == 0
    ran = pai("-name", "tensorflow", f"-Dscript={places.oss}x.py", *role)
    assert ran.stdout == "7\n", ran.stderr
    assert f"{key}made.txt" in places.oss_server.keys(bucket)


def test_keys_in_the_location_are_used(pai: Pai, places: Places, tmp_path: Path) -> None:
    where = f"{places.oss}?id={OTHER_KEY_ID}&key={OTHER_SECRET}&host={places.oss_server.url}"
    assert pai(*command(script(tmp_path, READS), where)).returncode == 0
    assert places.oss_server.requests()[-1].access_key_id == OTHER_KEY_ID


def test_locations_of_one_bucket_keep_their_own_credentials(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    host = places.oss_server.url
    text = """
        import sys, fsspec
        folder = sys.argv[1]
        for name in ("a.txt", "inner/b.txt"):
            with fsspec.open(folder + name, "w") as stream:
                stream.write("x")
    """
    ours = f"{places.oss}?id={KEY_ID}&key={SECRET}&host={host}"
    theirs = f"{places.oss}inner/?id={OTHER_KEY_ID}&key={OTHER_SECRET}&host={host}"
    ran = pai(*command(script(tmp_path, text), ours, f"-DcheckpointDir={theirs}"))
    assert ran.returncode == 0, ran.stderr
    puts = {
        one.path.rpartition("/")[2]: one.access_key_id
        for one in places.oss_server.requests()
        if one.method == "PUT" and one.path.startswith(places.oss.removeprefix("oss:/"))
    }
    assert puts == {"a.txt": KEY_ID, "b.txt": OTHER_KEY_ID}


@pytest.mark.parametrize("role", [REFUSED_ROLE, MISSING_ROLE])
def test_a_role_that_is_refused_ends_the_job_and_says_what_to_do(
    role: str, pai: Pai, places: Places, tmp_path: Path
) -> None:
    where = opened(places, role)
    path = script(tmp_path, READS)
    ran = pai(*command(path, where))
    assert ran.returncode == 125
    assert role.rpartition("/")[2] in ran.stderr
    assert "OSS_ACCESS_KEY_ID" in ran.stderr  # the caller
    assert "--role ignore" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "1234567890123456" not in ran.stderr
    assert SECRET not in ran.stderr
    assert not places.names("oss")
    for settings, words in (({}, ["--role", "ignore"]), ({"PAI_ROLE": "ignore"}, [])):
        ignored = pai(*words, *command(path, where), **settings)
        assert ignored.returncode == 0, ignored.stderr
        assert "is ignored: your own keys are used" in ignored.stderr
        assert places.oss_server.requests()[-1].access_key_id == KEY_ID


def test_a_role_that_is_refused_for_the_script_says_what_to_do(pai: Pai, places: Places) -> None:
    where = f"{places.oss}x.py?host={places.oss_server.url}&role_arn={REFUSED_ROLE}"
    for verb in ([], ["explain"]):
        ran = pai(*verb, "-name", "tensorflow", f"-Dscript={where}")
        assert ran.returncode == 125
        assert "-Dscript=" in ran.stderr
        assert "--role ignore" in ran.stderr


def test_keys_in_a_flag_are_kept_out_of_the_record(pai: Pai, tmp_path: Path) -> None:
    path = script(tmp_path, "import sys; print(sys.argv[1:])")
    for form in (rf"oss://b\x01id={OTHER_KEY_ID}\x02key={OTHER_SECRET}\x02host=h/d", "--key=x"):
        text = f"PAI -name tensorflow -Dscript={path} -DuserDefinedParameters='--data={form}';"
        ran = pai("-e", text)
        assert ran.returncode == 0, ran.stderr
        shown = pai("explain", "-e", text).stdout
        shown += "".join(one.read_text() for one in pai.home.glob("jobs/*/*.json"))
        assert OTHER_SECRET not in shown
        assert OTHER_KEY_ID not in shown
    assert "--data=--key=x" in ran.stdout


def test_no_keys_at_all_says_where_they_were_looked_for(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    nothing = {"OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": "", "HOME": str(tmp_path)}
    ran = pai(
        *command(script(tmp_path, READS), opened(places)),
        ALIBABA_CLOUD_ECS_METADATA_DISABLED="true",
        **nothing,
    )
    assert ran.returncode == 125
    for place in ("OSS_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_ID", ".aliyun/config.json"):
        assert place in ran.stderr


def test_a_wrong_word_for_the_role_is_refused(pai: Pai, places: Places, tmp_path: Path) -> None:
    path = script(tmp_path, READS)
    for words, settings in ((["--role", "ignored"], {}), ([], {"PAI_ROLE": "ingore"})):
        ran = pai(*words, *command(path, opened(places)), **settings)
        assert ran.returncode == 2
        assert "ignore: with your own keys" in ran.stderr


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("evil.example.com", "PAI_ALLOWED_HOSTS=evil.example.com"),
        ("http://oss-cn-x.aliyuncs.com", "http://"),
        ("169.254.169.254", "169.254.169.254"),
        ("http://2852039166", "metadata"),
    ],
)
def test_a_server_that_may_not_be_named_gets_nothing(
    host: str, says: str, pai: Pai, places: Places, tmp_path: Path
) -> None:
    ran = pai(*command(script(tmp_path, READS), f"{places.oss}?host={host}&role_arn={ROLE}"))
    assert ran.returncode == 125
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


# ====== While the job runs ======

WAITS = """
    import os, sys, time, fsspec
    folder, signal = sys.argv[1], sys.argv[2]
    for step in range(3):
        with fsspec.open(f"{folder}step-{step}", "w") as stream:
            stream.write("x")
        print(step, flush=True)
        while not os.path.exists(f"{signal}{step}"):
            time.sleep(0.05)
"""


def test_a_token_that_expires_is_renewed_without_the_script_noticing(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    path = script(tmp_path, WAITS)
    signal = tmp_path / "go"
    where = opened(places)
    flags = f"-DuserDefinedParameters={places.oss} {signal}"
    running = pai.start(
        "-name", "tensorflow", f"-Dscript={path}", f"-Dbuckets={where}", flags
    )  # fmt: skip
    assert running.stdout is not None
    for step in range(3):
        assert running.stdout.readline() == f"{step}\n"
        places.oss_server.set(expire_tokens=True)
        Path(f"{signal}{step}").touch()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert places.names("oss") == {"step-0", "step-1", "step-2"}
    (job,) = json.loads(pai("jobs", "--json").stdout)
    sessions = [call["session_name"] for call in places.oss_server.calls_of_sts()]
    assert sessions.count(f"pai-{job['id']}") == 3


@pytest.mark.tensorflow
def test_the_jobs_credentials_serve_fsspec_and_pandas(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    text = f"""
        import sys, fsspec, pandas, tensorflow as tf
        folder = sys.argv[1]
        table = pandas.DataFrame({{"x": [1, 2]}})
        table.to_csv(folder + "t.csv", index=False)
        assert pandas.read_csv(folder + "t.csv").equals(table)
        raw = folder + "?host=oss-cn-x.aliyuncs.com&role_arn={ROLE}"
        # `::` chains filesystems in fsspec, so a role cannot stand there.
        assert fsspec.open(raw.split("&")[0] + "/t.csv").open().read() == b"x\\n1\\n2\\n"
        assert tf.io.gfile.GFile(folder + "t.csv").read() == "x\\n1\\n2\\n"
        assert tf.io.gfile.glob(raw + "/*.csv") == [folder + "t.csv"]
        assert fsspec.filesystem("oss").exists(folder + "t.csv")
    """
    ran = pai(*command(script(tmp_path, text), opened(places), "-DtfApi=v2"))
    assert ran.returncode == 0, ran.stderr


def test_a_job_with_a_role_can_be_run_again(pai: Pai, places: Places, tmp_path: Path) -> None:
    assert pai(*command(script(tmp_path, READS), opened(places))).returncode == 0
    (job,) = json.loads(pai("jobs", "--json").stdout)
    again = pai("rerun", job["id"])
    assert again.returncode == 0, again.stderr
    assert again.stdout == "b'made'\n"


# ====== No secret anywhere ======

LOUD = """
    import logging, os, sys, time, threading
    logging.basicConfig(level=logging.DEBUG)
    import fsspec, tensorflow as tf
    logging.getLogger("oss2").setLevel(logging.DEBUG)  # ossfs has silenced it
    folder, missing, signal = sys.argv[1:4]
    with tf.io.gfile.GFile(folder + "by-tensorflow.txt", "w") as stream:
        stream.write("x")
    with fsspec.open(folder + "by-fsspec.txt", "w") as stream:
        stream.write("x")
    for path in (folder + "nothing", missing + "nothing"):
        try:
            tf.io.gfile.GFile(path).read()
        except tf.errors.OpError as error:
            print(error)
    def fail():
        raise ValueError(f"{token()}")
    def token():
        source = fsspec.filesystem("oss").client(folder[6:])._source
        made = source.get()
        return made.access_key_id, made.access_key_secret, made.security_token
    failing = threading.Thread(target=fail)
    failing.start()
    failing.join()
    print("ready", flush=True)
    while not os.path.exists(signal):
        time.sleep(0.05)
    fsspec.open(folder + "nothing", "r").open()
"""


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", ["stream", "stage"])
def test_no_secret_is_seen_anywhere(mode: str, pai: Pai, places: Places, tmp_path: Path) -> None:
    path = script(tmp_path, LOUD)
    signal = tmp_path / "go"
    host = places.oss_server.url
    keys = f"{places.oss}keys/?id={OTHER_KEY_ID}&key={OTHER_SECRET}&host={host}&mount={mode}"
    # In a file: what a user types into a shell is seen by all.
    text = tmp_path / "job.pai"
    text.write_text(
        f"PAI -name tensorflow -Dscript='{path}' -Dbuckets='{opened(places)}'"
        f" -DcheckpointDir='{keys}'"
        f" -DuserDefinedParameters='{places.oss} oss://no-such-bucket/ {signal}';",
        encoding="utf-8",
    )
    words = ["-f", str(text)]
    explained = pai("explain", *words)
    assert explained.returncode == 0, explained.stderr
    running = pai.start(*words)
    assert running.stdout is not None
    seen = []
    while not seen or seen[-1] != "ready\n":
        line = running.stdout.readline()
        assert line, running.communicate()[1]
        seen.append(line)
    own = {SECRET, OTHER_SECRET, OTHER_KEY_ID, *_given_out(places)}
    processes = _processes(str(pai.home))
    assert len(processes) >= 3, "launcher, supervisor and script should be there"
    for text in processes:
        # The keys of the user's own environment are there, as the user put them there.
        assert not [secret for secret in own - {SECRET} if secret in text]
    signal.touch()
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "FileNotFoundError" in errors
    assert "DEBUG:oss2" in errors, "there was nothing to be masked"
    texts = [explained.stdout, explained.stderr, output, errors, *seen]
    texts += [pai("status", _job_id(pai)).stdout, pai("logs", _job_id(pai)).stdout]
    texts += [
        file.read_text(encoding="utf-8", errors="replace")
        for file in pai.home.rglob("*")
        if file.is_file()
    ]
    for text in texts:
        for secret in {*own, KEY_ID, *_given_out(places)}:
            assert secret not in text, re.findall(f".{{0,200}}{re.escape(secret)}", text)[:1]


def _given_out(places: Places) -> set[str]:
    """Return every id, secret and token that STS has handed out so far."""
    values = places.oss_server.given_out()
    assert values
    return set(values)


def _job_id(pai: Pai) -> str:
    return str(json.loads(pai("jobs", "--json").stdout)[0]["id"])


def _processes(mark: str) -> list[str]:
    """Return command line and environment of each process that belongs to these records."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue  # it has ended
        if mark.encode() in arguments + environment:
            found.append((arguments + environment).decode(errors="replace"))
    return found
