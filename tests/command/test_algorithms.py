"""Which algorithm names run."""

from __future__ import annotations

import pytest

from pai_runner.command import ALGORITHMS, algorithm_rows
from pai_runner.command.algorithms import find_algorithm
from pai_runner.errors import UsageError


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_known_name_is_version_1(name: str) -> None:
    assert find_algorithm(name).api == "v1"
    assert find_algorithm(name).cpu_only == (name == "tensorflow1120_cpu_ext")


@pytest.mark.parametrize("name", ["tensorflow200", "tensorflow2150", "tensorflow2151_py3_ext"])
def test_tensorflow_2_is_version_2(name: str) -> None:
    assert find_algorithm(name).api == "v2"


@pytest.mark.parametrize(
    "name",
    [
        "pytorch",
        "easy_rec_ext",
        "tensorboard",
        "Tensorflow",
        "tensorflow1",
        "tensorflow3000",
        "x",
        "",
    ],
)
def test_other_names_say_what_is_supported(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_algorithm(name)
    assert caught.value.exit_code == 2
    assert f"`{name}`" in str(caught.value)
    assert caught.value.hint is not None
    assert all(known in caught.value.hint for known in [*ALGORITHMS, "tensorflow2xx"])


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean `tensorflow1120_ext`"):
        find_algorithm("tensorflow1120_exr")


def test_rows_list_them_all() -> None:
    assert algorithm_rows()[0] == ("tensorflow", "v1")
    assert algorithm_rows()[-1] == ("tensorflow2xx", "v2")
    assert len(algorithm_rows()) == len(ALGORITHMS) + 1
