"""Builds the compiled parts; everything else is in pyproject.toml.

They have no Python in them (TensorFlow and ctypes load them by path), so one plain `.so` of each
serves every Python 3, and the wheel is tagged so. Where no compiler is found the install still
succeeds: `pai doctor` then says what is missing.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildPlainLibrary(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, extension: Extension) -> None:
        # Without this a library of an earlier build would hide that this one failed.
        Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        super().build_extension(extension)


class TagAnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        return "py3", "none", platform


setup(
    ext_modules=[
        Extension(
            "pai_runner.script._filesystem",
            sources=["pai_runner/script/_filesystem.c", "pai_runner/script/_threads.c"],
            optional=True,
        ),
        Extension(
            "pai_runner.storage._checksums",
            sources=["pai_runner/storage/_checksums.c"],
            optional=True,
        ),
    ],
    cmdclass={"build_ext": BuildPlainLibrary, "bdist_wheel": TagAnyPython},
)
