"""A script that saves checkpoints and SavedModels as TensorFlow does, without TensorFlow.

    python checkpoint_writer.py FOLDER STEPS SEED

It goes on from the checkpoint in FOLDER, keeps the last three, prints each step when it is
saved, and ends after STEPS more. Every file tells whether it is whole, and what it belongs to:
`problems` finds what is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# How TensorFlow's tables end.
MAGIC = bytes.fromhex("57fb808b247547db")
RECORD = b"an event of sixteen\n"
KEPT = 3
_POINTED = re.compile(rb'model_checkpoint_paths?: "(.*)"')


def save(folder: Path, step: int, chance: random.Random) -> None:
    """Save the checkpoint of `step`, as tf.compat.v1.train.Saver does.

    It names checkpoints by their whole path, or as save_relative_paths says.
    """
    place = chance.choice(("", f"{folder}/"))
    prefix = folder / f"model.ckpt-{step}"
    _save_variables(prefix, step, chance)
    steps = [step, *(older for older in range(step - 1, step - KEPT, -1) if older > 0)]
    names = [f'model_checkpoint_path: "{place}model.ckpt-{step}"']
    names += [f'all_model_checkpoint_paths: "{place}model.ckpt-{one}"' for one in reversed(steps)]
    _write_renamed(folder / "checkpoint", "\n".join(names).encode() + b"\n", ".tmp", chance)
    _write_renamed(prefix.with_name(f"{prefix.name}.meta"), b"graph", ".tmp", chance)
    old = folder / f"model.ckpt-{step - KEPT}"
    for end in (".index", ".data-00000-of-00001", ".meta"):
        old.with_name(old.name + end).unlink(missing_ok=True)


def export(folder: Path, step: int, chance: random.Random) -> None:
    """Save a SavedModel as SavedModelBuilder does: saved_model.pb last, and in place."""
    model = folder / "export" / str(step)
    (model / "variables").mkdir(parents=True)
    (model / "assets").mkdir()
    (model / "assets" / "vocabulary").write_text(f"words of {step}", encoding="utf-8")
    _save_variables(model / "variables" / "variables", step, chance)
    files = {
        str(path.relative_to(model)): _digest(path.read_bytes())
        for path in model.rglob("*")
        if path.is_file()
    }
    with (model / "saved_model.pb").open("wb", buffering=0) as file:
        for piece in json.dumps(files).split(","):
            file.write(piece.encode() + b",")
        file.write(b"end")
    shutil.rmtree(folder / "export" / str(step - 8), ignore_errors=True)


def _save_variables(prefix: Path, step: int, chance: random.Random) -> None:
    data = chance.randbytes(chance.choice((10, 1000, 100_000, 2_000_000)))
    data += _digest(data).encode()
    index = json.dumps({"step": step, "data": _digest(data)}).encode() + MAGIC
    _write_renamed(
        prefix.with_name(f"{prefix.name}.data-00000-of-00001"), data, ".tempstate", chance
    )
    _write_renamed(prefix.with_name(f"{prefix.name}.index"), index, ".tempstate", chance)


def _write_renamed(path: Path, data: bytes, end: str, chance: random.Random) -> None:
    number = chance.getrandbits(128)
    name = f"{end}{number:032x}" if end == ".tmp" else f"{end}{number % 10**15}"
    temporary = path.with_name(path.name + name)
    with temporary.open("wb") as file:
        half = len(data) // 2
        file.write(data[:half])
        file.flush()
        file.write(data[half:])
    temporary.rename(path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def last_step(pointer: bytes) -> int:
    """Return the step that a `checkpoint` file names last."""
    found = _POINTED.search(pointer)
    assert found is not None, pointer
    return int(found[1].rpartition(b"-")[2])


def problems(names: Iterable[str], read: Callable[[str], bytes]) -> list[str]:
    """Return what is not whole, or names what is not there, among the files of a directory."""
    found = []
    there = set(names)
    for name in there:
        content = read(name)
        directory = f"{name.rpartition('/')[0]}/".removeprefix("/")
        base = name.rpartition("/")[2]
        if base == "checkpoint":
            named = {f"{one.decode()}.index" for one in _POINTED.findall(content)}
            found += [f"checkpoint names {one}" for one in named - there]
        elif name.endswith(".index"):
            data = f"{name.removesuffix('.index')}.data-00000-of-00001"
            if not content.endswith(MAGIC):
                found.append(f"{name} is not whole")
            elif data not in there:
                found.append(f"{name} has no data")
            elif json.loads(content.removesuffix(MAGIC))["data"] != _digest(read(data)):
                found.append(f"{name} is not of its data")
        elif ".data-" in base and base.endswith("-of-00001"):
            if _digest(content[:-64]).encode() != content[-64:]:
                found.append(f"{name} is not whole")
        elif base == "saved_model.pb":
            if not content.endswith(b",end"):
                found.append(f"{name} is not whole")
                continue
            for one, digest in json.loads(content.removesuffix(b",end")).items():
                if directory + one not in there or _digest(read(directory + one)) != digest:
                    found.append(f"{name}: {one} is not there whole")
        elif "tfevents" in base:
            if len(content) % len(RECORD):
                found.append(f"{name} ends within a record")
        elif base != "vocabulary" and not base.endswith(".meta"):
            found.append(f"{name} should not be there")
    return found


def main() -> None:
    folder, steps, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    pointer = folder / "checkpoint"
    first = last_step(pointer.read_bytes()) + 1 if pointer.exists() else 1
    with (folder / f"events.out.tfevents.{first}").open("ab", buffering=0) as events:
        for step in range(first, first + steps):
            save(folder, step, chance)
            if step % 4 == 0 and not (folder / "export" / str(step)).exists():
                export(folder, step, chance)
            os.write(events.fileno(), RECORD)
            print(step, flush=True)
            time.sleep(chance.uniform(0.0, 0.2))  # what a step takes


if __name__ == "__main__":
    main()
