"""Random sequences of what is done with files on oss://, held against a dict."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from oss_content import BLOCK, KB, UGLY
from oss_server import OSSServer

from pai_runner.storage.oss import OSSFileSystem, open_oss

COUNT = int(os.environ.get("PAI_PROOF_COUNT", "20"))
STEPS = 12
SIZES = (0, 1, 10, 3 * KB, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5)
CACHES = ("readahead", "blockcache", "background", "none", "bytes", "all", "first")


@dataclass
class Model:
    """What a folder must hold: `files` by name. `chance` decides what is done."""

    fs: OSSFileSystem
    folder: str
    chance: random.Random
    files: dict[str, bytes] = field(default_factory=dict)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def new_name(self) -> str:
        """Return a name in one of three directories, where no file has a directory's name."""
        directory = self.chance.choice(("", "d/", "d e/中/"))
        return f"{directory}{self.chance.choice(UGLY)}.{self.chance.randrange(3)}"

    def old_name(self) -> str | None:
        return self.chance.choice(sorted(self.files)) if self.files else None

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice(SIZES))

    # ====== Steps ======

    def pipe(self) -> None:
        name, data = self.new_name(), self.data()
        self.fs.pipe_file(self.path(name), data)
        self.files[name] = data

    def write(self) -> None:
        name, data = self.new_name(), self.data()
        mode = self.chance.choice(("wb", "wb", "ab"))
        block = self.chance.choice((BLOCK, 2 * BLOCK))
        with self.fs.open(self.path(name), mode, block_size=block) as stream:
            start = 0
            while start < len(data):
                count = self.chance.choice((1, KB, 70 * KB, 250 * KB))
                stream.write(data[start : start + count])
                start += count
        self.files[name] = (self.files.get(name, b"") if mode == "ab" else b"") + data

    def read(self) -> None:
        name = self.old_name()
        if name is None:
            return
        data, size = self.files[name], len(self.files[name])
        assert self.fs.cat_file(self.path(name)) == data
        start, end = (self.chance.randint(-size - 5, size + 5) for _ in range(2))
        assert self.fs.cat_file(self.path(name), start, end) == data[start:end]
        cache = self.chance.choice(CACHES)
        with self.fs.open(self.path(name), cache_type=cache, block_size=10 * KB) as stream:
            for _ in range(3):
                start, count = self.chance.randint(0, size + 5), self.chance.randrange(30 * KB)
                stream.seek(start)
                assert stream.read(count) == data[start : start + count]

    def copy(self) -> None:
        name, target = self.old_name(), self.new_name()
        if name is not None and name != target:
            self.fs.cp_file(self.path(name), self.path(target))
            self.files[target] = self.files[name]

    def rename(self) -> None:
        name, target = self.old_name(), self.new_name()
        if name is not None and name != target:
            self.fs.cp_file(self.path(name), self.path(target))
            self.fs.rm_file(self.path(name))
            self.files[target] = self.files.pop(name)

    def delete(self) -> None:
        name = self.old_name()
        if name is None:
            return
        self.fs.rm_file(self.path(name))
        del self.files[name]
        with pytest.raises(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def delete_directory(self) -> None:
        directory = self.chance.choice(("d", "d e"))
        inside = [name for name in self.files if name.startswith(f"{directory}/")]
        if inside:
            self.fs.rm(self.path(directory), recursive=True)
        for name in inside:
            del self.files[name]

    def compare_lists(self) -> None:
        found = self.fs.find(self.folder, detail=True)
        sizes = {path: info["size"] for path, info in found.items()}
        assert sizes == {self.path(name): len(data) for name, data in self.files.items()}
        for directory in ("d", "d e", "d e/中"):
            inside = {name for name in self.files if name.startswith(f"{directory}/")}
            assert self.fs.isdir(self.path(directory)) == bool(inside)
            if inside:
                names = {
                    self.path(f"{directory}/{name[len(directory) + 1 :].partition('/')[0]}")
                    for name in inside
                }
                listed = self.fs.ls(self.path(directory), detail=False)
                assert {name.rstrip("/") for name in listed} == names

    def step(self) -> Callable[[], None]:
        """Return what is done next."""
        steps = (self.pipe, self.write, self.write, self.read, self.read, self.copy)
        rarer = (self.rename, self.delete, self.delete_directory, self.compare_lists)
        return self.chance.choice((*steps, *rarer))


@pytest.mark.proof_oss
@pytest.mark.parametrize("seed", range(COUNT))
def test_a_sequence_agrees_with_a_dict(oss_server: OSSServer, proof_bucket: str, seed: int) -> None:
    fs = open_oss(oss_server.options)
    fs.copy_part = 2 * BLOCK
    model = Model(fs, f"{proof_bucket}/{seed}", random.Random(seed))
    for _ in range(STEPS):
        model.step()()
    model.compare_lists()
    for name, data in model.files.items():
        assert oss_server.read(proof_bucket, f"{seed}/{name}") == data
    if model.files:
        fs.rm(model.folder, recursive=True)
    assert oss_server.keys(proof_bucket) == {}
    assert oss_server.uploads(proof_bucket) == []


@pytest.fixture
def proof_bucket(server: OSSServer) -> str:
    """One bucket for all sequences, where copies of more than two blocks are refused."""
    server.set(copy_limit=2 * BLOCK)
    return server.make_bucket("proof")
