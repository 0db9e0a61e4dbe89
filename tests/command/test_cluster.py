"""-Dcluster."""

from __future__ import annotations

import pytest

from pai_runner.command import Cluster, ClusterRole
from pai_runner.command.cluster import parse_cluster, single_role
from pai_runner.errors import ParameterError


def error(text: str) -> ParameterError:
    with pytest.raises(ParameterError) as caught:
        parse_cluster(text)
    assert caught.value.name == "cluster"
    assert caught.value.hint
    return caught.value


def test_roles_and_resources() -> None:
    cluster = parse_cluster(
        '{"ps":{"count":1,"cpu":1000}, "worker" : {"count":3,"gpu":100,"memory":40000}}'
    )
    assert cluster == Cluster(
        (
            ClusterRole("ps", count=1, cpu=1000),
            ClusterRole("worker", count=3, gpu=100, memory=40000),
        )
    )
    assert cluster.processes == 4
    assert str(cluster) == "1 ps, 3 worker"


def test_everything_is_optional() -> None:
    assert parse_cluster('{"worker":{}}') == Cluster((ClusterRole("worker"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"ps":', "not JSON"),
        ("{ps:{count:1}}", "not JSON"),
        ("true", "not a JSON object"),
        ("{}", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"worker":{},"worker":{}}', "`worker` is given twice"),
        ('{"wroker":{"count":1}}', "unknown role `wroker`; did you mean `worker`?"),
        ('{"worker":1}', "`worker` is not a JSON object"),
        ('{"worker":{"cuont":1}}', "unknown entry `cuont`; did you mean `count`?"),
        ('{"worker":{"count":"2"}}', '`count` of `worker` is "2", not an integer'),
        ('{"worker":{"count":-1}}', "is -1, not an integer"),
        ('{"worker":{"gpu":1.5}}', "is 1.5, not an integer"),
        ('{"worker":{"gpu":true}}', "is true, not an integer"),
        ('{"worker":{"gpu":null}}', "is null, not an integer"),
        ('{"worker":{"gpu":NaN}}', "is NaN, not an integer"),
    ],
)
def test_what_is_no_cluster(text: str, message: str) -> None:
    assert message in str(error(text))


def test_suggestions_are_kept() -> None:
    assert error('{"wroker":{}}').suggestions == ("worker",)


@pytest.mark.parametrize(
    "text",
    [
        '{"worker":{"count":1,"gpu":50}}',
        '{"chief":{"gpu":50}}',
        '{"ps":{"count":0},"worker":{"gpu":50}}',
    ],
)
def test_one_process_is_a_single_role(text: str) -> None:
    assert single_role(parse_cluster(text)).gpu == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"worker":{"count":2}}', "2 processes (2 worker); several are not run yet"),
        ('{"ps":{},"worker":{}}', "2 processes (1 ps, 1 worker)"),
        ('{"worker":{"count":0}}', "no worker (0 worker)"),
        ('{"ps":{}}', "no worker (1 ps)"),
        ('{"evaluator":{}}', "no worker (1 evaluator)"),
    ],
)
def test_other_clusters_are_refused(text: str, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        single_role(parse_cluster(text))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert "-Dcluster" in str(caught.value.hint)
