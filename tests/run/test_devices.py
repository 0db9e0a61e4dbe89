"""The choice over tables of cards, and the reading of the cards through NVML itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pai_runner.errors import BusyError, ExitCode, PaiError, SetupError, UsageError
from pai_runner.run.devices import Choice, Demand, Gpu, choose, list_gpus, restrict

GIB = 1 << 30
PROJECT = Path(__file__).parents[2]


def gpu(index: int, used: float = 0, total: int = 80, **values: Any) -> Gpu:
    name = values.pop("name", "NVIDIA H200")
    uuid = values.pop("uuid", f"GPU-{index}aaa")
    return Gpu(index, uuid, name, total * GIB, int(used * GIB), **values)


def mig(index: int, number: int, **values: Any) -> Gpu:
    return gpu(index, total=10, mig=number, uuid=f"MIG-{index}{number}", **values)


def taken(
    gpus: list[Gpu], devices: str | None = None, gpu_required: int | None = None
) -> tuple[str, ...]:
    return choose(Demand.of(devices, gpu_required), gpus).devices


def refusal(
    kind: type[PaiError],
    gpus: list[Gpu],
    devices: str | None = None,
    gpu_required: int | None = None,
    reason: str | None = None,
) -> str:
    with pytest.raises(kind) as caught:
        choose(Demand.of(devices, gpu_required), gpus, reason)
    return f"{caught.value} / {caught.value.hint}"


# ====== Demand ======


@pytest.mark.parametrize(
    ("devices", "gpu_required", "count", "firm"),
    [
        (None, None, 1, False),
        (None, 100, 1, True),
        (None, 300, 3, True),
        (None, 0, 0, False),
        ("auto", None, 1, False),
        ("auto", 300, 3, False),
        ("auto", 0, 0, False),
        ("cpu", 300, 0, False),
        ("gpu", 300, 1, True),
        (" GPU ", None, 1, True),
        ("gpu:0,3", None, 2, True),
        ("gpu:GPU-1a2b, MIG-3c", None, 2, True),
    ],
)
def test_a_demand_is_read(
    devices: str | None, gpu_required: int | None, count: int, firm: bool
) -> None:
    demand = Demand.of(devices, gpu_required)
    assert (demand.count, demand.firm) == (count, firm)


@pytest.mark.parametrize(
    "devices",
    ["", "gpu:", "gpu:x", "gpu:0,", "gpu:-1", "gpu:0,0", "gpu:0 1", "tpu", "cpu:0", "auto:1", "0"],
)
def test_a_wrong_devices_text_is_refused(devices: str) -> None:
    with pytest.raises(UsageError) as caught:
        Demand.of(devices, None)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint


def test_a_negative_gpu_required_is_refused() -> None:
    with pytest.raises(UsageError, match="gpuRequired=-100"):
        Demand.of(None, -100)


def test_devices_win_over_gpu_required_and_say_so() -> None:
    choice = choose(Demand.of("gpu:1", 200), [gpu(0), gpu(1)])
    assert choice.devices == ("GPU-1aaa",)
    assert choice.notices == ("--devices gpu:1 is followed, -DgpuRequired=200 is not",)


@pytest.mark.parametrize(("gpu_required", "cards"), [(50, 1), (150, 2), (1, 1)])
def test_a_share_of_a_card_is_a_whole_one_and_says_so(gpu_required: int, cards: int) -> None:
    choice = choose(Demand.of(None, gpu_required), [gpu(0), gpu(1)])
    assert len(choice.devices) == cards
    assert f"gpuRequired={gpu_required}" in choice.notices[0]


# ====== Choice ======


def test_the_environment_shows_exactly_the_chosen_cards() -> None:
    choice = choose(Demand.of(None, 200), [gpu(0), gpu(1), gpu(2, used=1)])
    assert choice.environment == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-0aaa,GPU-1aaa",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    assert choice.notices == ()


@pytest.mark.parametrize(("devices", "gpu_required"), [("cpu", None), (None, 0), ("auto", 0)])
def test_the_cpu_hides_every_card(devices: str | None, gpu_required: int | None) -> None:
    choice = choose(Demand.of(devices, gpu_required), [gpu(0)])
    assert choice == Choice((), {"CUDA_VISIBLE_DEVICES": "-1"}, ())


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([gpu(0, used=9), gpu(1, used=2)], "GPU-1aaa"),
        ([gpu(0, used=2.2, utilization=90), gpu(1, used=2.4, utilization=1)], "GPU-1aaa"),
        ([gpu(0), gpu(1)], "GPU-0aaa"),
        ([gpu(0, total=24), gpu(1, used=30, processes=1)], "GPU-0aaa"),
        ([gpu(0, total=24), gpu(1, total=80)], "GPU-1aaa"),
        ([mig(0, 1), mig(0, 0)], "MIG-00"),
    ],
    ids=["memory", "utilisation", "index", "idle-first", "free-not-used", "mig-number"],
)
def test_the_least_used_card_is_taken(gpus: list[Gpu], expected: str) -> None:
    assert taken(gpus) == taken(gpus, "auto") == taken(gpus, "gpu") == (expected,)


def test_named_cards_are_taken_in_the_order_given() -> None:
    gpus = [gpu(0), gpu(1, uuid="GPU-bbb"), mig(2, 1)]
    assert taken(gpus, "gpu:1,0") == ("GPU-bbb", "GPU-0aaa")
    assert taken(gpus, "gpu:gpu-BB") == ("GPU-bbb",)
    assert taken(gpus, "gpu:2:1") == taken(gpus, "gpu:MIG-21") == ("MIG-21",)


def test_without_a_card_the_default_is_the_cpu_and_says_why() -> None:
    for devices in (None, "auto"):
        choice = choose(Demand.of(devices, None), [], "no NVIDIA driver library")
        assert choice.devices == ()
        assert choice.environment == {"CUDA_VISIBLE_DEVICES": "-1"}
        assert choice.notices == ("the job runs on the CPU: no NVIDIA driver library",)


def test_what_is_left_open_takes_a_busy_card_and_says_so() -> None:
    choice = choose(Demand.of(None, None), [gpu(0, used=70, processes=2), gpu(1, used=60)])
    assert choice.devices == ("GPU-1aaa",)
    assert "GPU 1 (NVIDIA H200) is in use (60.0 of 80.0 GiB, 0 processes, 0 %)" in choice.notices[0]


def test_auto_takes_fewer_than_gpu_required_and_says_so() -> None:
    choice = choose(Demand.of("auto", 300), [gpu(0), gpu(1)])
    assert choice.devices == ("GPU-0aaa", "GPU-1aaa")
    assert choice.notices == ("-DgpuRequired=300 asks for 3 GPUs; the job takes 2",)


@pytest.mark.parametrize(("devices", "gpu_required"), [("gpu", None), (None, 100), ("gpu:0", None)])
def test_a_demand_that_can_never_be_met_is_a_setup_error(
    devices: str | None, gpu_required: int | None
) -> None:
    text = refusal(SetupError, [], devices, gpu_required, "no NVIDIA driver library")
    assert "there is none: no NVIDIA driver library" in text
    assert "--devices cpu" in text
    assert SetupError.exit_code == 125


def test_too_many_cards_name_what_there_is() -> None:
    text = refusal(SetupError, [gpu(0), gpu(1)], gpu_required=300)
    assert "gpuRequired=300 asks for 3 GPUs" in text
    assert "there is GPU 0 (NVIDIA H200), GPU 1 (NVIDIA H200)" in text


def test_an_unknown_or_ambiguous_name_is_a_setup_error() -> None:
    gpus = [gpu(0, uuid="GPU-ab1"), gpu(1, uuid="GPU-ab2")]
    hidden = refusal(SetupError, gpus, "gpu:4", reason="CUDA_VISIBLE_DEVICES=0,1 hides 3 of 5 GPUs")
    assert "no GPU is called 4" in hidden
    assert "hides 3 of 5" in hidden
    assert "2 GPUs are called GPU-ab" in refusal(SetupError, gpus, "gpu:GPU-ab")
    assert "twice" in refusal(SetupError, gpus, "gpu:0,GPU-ab1")


@pytest.mark.parametrize("in_use", [{"processes": 1}, {"used": 21}], ids=["process", "memory"])
@pytest.mark.parametrize(("devices", "gpu_required"), [("gpu", None), (None, 100), ("gpu:0", None)])
def test_a_demand_for_a_busy_card_is_busy(
    in_use: dict[str, Any], devices: str | None, gpu_required: int | None
) -> None:
    text = refusal(BusyError, [gpu(0, **in_use)], devices, gpu_required)
    assert "GPU 0 (NVIDIA H200) is in use" in text
    assert "--devices auto" in text
    assert BusyError.exit_code == 75


def test_a_demand_takes_the_idle_cards_and_never_half_of_it() -> None:
    gpus = [gpu(0, processes=1), gpu(1), gpu(2)]
    assert taken(gpus, gpu_required=200) == ("GPU-1aaa", "GPU-2aaa")
    assert "asks for 3 GPUs" in refusal(BusyError, gpus, gpu_required=300)


def test_the_memory_of_a_screen_leaves_a_card_idle() -> None:
    assert taken([gpu(0, used=0.9, total=8)], "gpu") == ("GPU-0aaa",)


def test_one_process_gets_one_mig_device() -> None:
    gpus = [mig(0, 0), mig(0, 1), gpu(1)]
    assert "3 GPUs in one process" in refusal(SetupError, gpus, gpu_required=300)
    assert "one MIG device" in refusal(SetupError, gpus, "gpu:0:0,1")
    assert taken([mig(0, 0), mig(0, 1)], "auto", 200) == ("MIG-00",)


# ====== CUDA_VISIBLE_DEVICES ======


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("GPU-1", [1]),
        ("gpu-2AAA, 0", [2, 0]),
        ("0,-1,2", [0]),
        ("0,0,1", [0, 1]),
    ],
)
def test_cuda_visible_devices_restricts(visible: str, left: list[int]) -> None:
    assert [g.index for g in restrict([gpu(0), gpu(1), gpu(2)], visible)] == left


def test_the_index_of_a_card_in_mig_mode_leaves_its_devices() -> None:
    assert restrict([mig(0, 0), mig(0, 2), gpu(1)], "0") == (mig(0, 0), mig(0, 2))


# ====== Through NVML ======

_LIST = """
import json, sys
from dataclasses import asdict
from pai_runner.run.devices import list_gpus
gpus, reason = list_gpus()
print(json.dumps([[{**asdict(g), "label": g.label} for g in gpus], reason]))
assert "tensorflow" not in sys.modules
"""
IDLE = "-1,0,0,GPU-{0},NVIDIA H200,143771,4,0,0"


def listed(environment: dict[str, str], **more: str) -> tuple[list[dict[str, Any]], str | None]:
    environment = {**environment, "PYTHONPATH": str(PROJECT), **more}
    ran = subprocess.run(
        [sys.executable, "-c", _LIST], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    gpus, reason = json.loads(ran.stdout)
    return gpus, reason


def test_nvml_shows_memory_utilisation_and_processes(fake_nvml: Any) -> None:
    gpus, reason = listed(fake_nvml(IDLE.format("a"), "-1,-1,0,GPU-b,Tesla T4,15360,7000,93,2"))
    assert reason is None
    assert gpus[0]["uuid"] == "GPU-a"
    assert gpus[1] == {
        "index": 1,
        "uuid": "GPU-b",
        "name": "Tesla T4",
        "memory_total": 15360 << 20,
        "memory_used": 7000 << 20,
        "utilization": 93,
        "processes": 2,
        "mig": None,
        "label": "1",
    }


def test_mig_devices_stand_in_place_of_their_card(fake_nvml: Any) -> None:
    gpus, _ = listed(
        fake_nvml(
            "-1,1,0,GPU-a,NVIDIA A100,40960,50,0,0",
            IDLE.format("b"),
            "0,-1,0,MIG-x,NVIDIA A100 MIG 1g.5gb,4864,5,-1,0",
            "0,-1,0,MIG-y,NVIDIA A100 MIG 1g.5gb,4864,5,-1,1",
        )
    )
    assert [(g["label"], g["uuid"], g["processes"]) for g in gpus] == [
        ("0:0", "MIG-x", 0),
        ("0:1", "MIG-y", 1),
        ("1", "GPU-b", 0),
    ]


def test_a_card_in_mig_mode_without_devices_cannot_be_used(fake_nvml: Any) -> None:
    gpus, reason = listed(fake_nvml("-1,1,0,GPU-a,NVIDIA A100,40960,50,0,0"))
    assert gpus == []
    assert reason == "the NVIDIA driver shows no GPU that can be used"


def test_a_lost_card_is_left_out_and_named(fake_nvml: Any) -> None:
    gpus, reason = listed(fake_nvml("-1,0,15,GPU-a,NVIDIA H200,1,1,0,0", IDLE.format("b")))
    assert [g["index"] for g in gpus] == [1]
    assert reason == "GPU 0 is left out: GPU is lost"


def test_measures_that_a_card_does_not_give_are_zero(fake_nvml: Any) -> None:
    gpus, _ = listed(fake_nvml("-1,-1,0,GPU-a,NVIDIA GB10,-1,0,-1,-1"))
    assert (gpus[0]["memory_total"], gpus[0]["utilization"], gpus[0]["processes"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        (9, "the NVIDIA driver is not loaded"),
        (18, "the NVIDIA driver and its library have different versions"),
        (4, "this user may not use the NVIDIA driver"),
        (999, "the NVIDIA driver does not start: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_start_is_a_reason(fake_nvml: Any, init: int, reason: str) -> None:
    gpus, found = listed(fake_nvml(IDLE.format("a"), init=init))
    assert gpus == []
    assert found is not None
    assert found.startswith(reason)


def test_no_card_and_a_broken_library_are_reasons(fake_nvml: Any, tmp_path: Path) -> None:
    assert listed(fake_nvml()) == ([], "the NVIDIA driver shows no GPU that can be used")
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    gpus, reason = listed(fake_nvml(), LD_LIBRARY_PATH=str(tmp_path))
    assert gpus == []
    assert reason is not None
    assert reason.startswith("libnvidia-ml.so.1: ")


def test_the_callers_cuda_visible_devices_restricts_the_list(fake_nvml: Any) -> None:
    cards = fake_nvml(IDLE.format("a"), IDLE.format("b"))
    gpus, reason = listed(cards, CUDA_VISIBLE_DEVICES="1")
    assert [g["uuid"] for g in gpus] == ["GPU-b"]
    assert reason == "CUDA_VISIBLE_DEVICES=1 hides 1 of 2 GPUs"
    assert listed(cards, CUDA_VISIBLE_DEVICES="")[0] == []


def test_this_machines_own_cards() -> None:
    """With a driver, real cards that can be told apart; without one, the reason."""
    gpus, reason = list_gpus({})
    assert gpus or reason
    assert len({card.uuid for card in gpus}) == len(gpus)
    assert all(card.name and card.uuid.startswith(("GPU-", "MIG-")) for card in gpus)
    if gpus:
        assert len(choose(Demand.of(None, None), gpus, reason).devices) == 1
