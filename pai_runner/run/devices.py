"""Which GPUs a job takes: what the machine has, what the user demands, and the choice.

The cards are read through NVML and never through TensorFlow, which would take their memory.
The choice is a pure function over a table of cards. Whoever names a card or a number of cards
gets exactly that or an error; what the user leaves open is answered with what there is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pai_runner.errors import BusyError, SetupError, UsageError

# A card counts as busy when a compute process runs on it, or when more than this share of its
# memory is in use: the processes of other containers are often not listed, a desktop's screen
# takes less.
BUSY_SHARE = 0.25

_GIB = 1 << 30
_LIBRARY = "libnvidia-ml.so.1"
_NAME = re.compile(r"\d+(:\d+)?|(GPU|MIG)-[0-9A-Za-z/-]+", re.IGNORECASE)
_DEVICES_HINT = "valid: cpu, gpu, gpu:0,1 (indices as nvidia-smi shows them, or UUIDs), auto"
_ELSE_HINT = "run on the CPU with --devices cpu, or on what there is with --devices auto"
_BUSY_HINT = (
    "try again later, take the least used even so with --devices auto, or run on the CPU with "
    "--devices cpu"
)


# ====== What the machine has ======


@dataclass(frozen=True)
class Gpu:
    """A GPU, or one MIG device of it (`mig` is then its number on the card).

    `index` counts in PCI order, as nvidia-smi shows it. Memory is in bytes, `utilization` in
    percent, `processes` counts the compute processes. What the driver does not tell is 0.
    """

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    utilization: int = 0
    processes: int = 0
    mig: int | None = None

    @property
    def label(self) -> str:
        """What --devices calls it: `0`, or `0:1` for the MIG device 1 of card 0."""
        return str(self.index) if self.mig is None else f"{self.index}:{self.mig}"

    @property
    def busy(self) -> bool:
        """Whether something else uses it; see BUSY_SHARE."""
        return self.processes > 0 or self.memory_used > BUSY_SHARE * self.memory_total

    @property
    def use(self) -> str:
        """Its use in words, for example `3.5 of 80.0 GiB, 1 process, 40 %`."""
        plural = "" if self.processes == 1 else "es"
        return (
            f"{self.memory_used / _GIB:.1f} of {self.memory_total / _GIB:.1f} GiB, "
            f"{self.processes} process{plural}, {self.utilization} %"
        )

    def __str__(self) -> str:
        return f"GPU {self.label} ({self.name})"

    def is_called(self, name: str) -> bool:
        """Tell whether `name` is its label, its UUID or the beginning of its UUID."""
        if name[:4].upper() in ("GPU-", "MIG-"):
            return self.uuid.lower().startswith(name.lower())
        return name == self.label


class Inventory(NamedTuple):
    """The GPUs that may be used; `reason` says why there are none, or why some are left out."""

    gpus: tuple[Gpu, ...]
    reason: str | None


def list_gpus(environment: Mapping[str, str] | None = None) -> Inventory:
    """Return the machine's GPUs as NVML shows them, with MIG devices in place of their card.

    A CUDA_VISIBLE_DEVICES in `environment` (default: this process's) restricts them. Raises
    nothing: without a driver there are no GPUs, and the reason says so.
    """
    gpus, reason = _read_nvml()
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    if visible is None or not gpus:
        return Inventory(gpus, reason)
    kept = restrict(gpus, visible)
    if len(kept) < len(gpus):
        hidden = f"CUDA_VISIBLE_DEVICES={visible} hides {len(gpus) - len(kept)} of {len(gpus)} GPUs"
        reason = f"{reason}; {hidden}" if reason else hidden
    return Inventory(kept, reason)


def restrict(gpus: Sequence[Gpu], visible: str) -> tuple[Gpu, ...]:
    """Return those of `gpus` that CUDA_VISIBLE_DEVICES=`visible` leaves.

    CUDA's rules: indices or UUIDs, and nothing from the first unknown entry on, so that an
    empty value and -1 leave none. Indices count in PCI order, and the index of a card in MIG
    mode stands for its devices.
    """
    kept: list[Gpu] = []
    for entry in visible.split(","):
        name = entry.strip()
        found = [gpu for gpu in gpus if gpu.is_called(name) or name == str(gpu.index)]
        if not found:
            break
        kept += [gpu for gpu in found if gpu not in kept]
    return tuple(kept)


def _read_nvml() -> Inventory:
    import ctypes

    # Without a driver the answer is known before pynvml is imported, which takes ten times as long.
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        missing = "no such file" in str(error).lower()
        text = f"no NVIDIA driver library ({_LIBRARY})" if missing else f"{_LIBRARY}: {error}"
        return Inventory((), text)
    try:
        import pynvml
    except ImportError:
        return Inventory((), "the Python package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Inventory((), _init_problem(pynvml, error))
    try:
        return _read_cards(pynvml)
    except pynvml.NVMLError as error:
        return Inventory((), f"the NVIDIA driver does not list its GPUs: {error}")
    finally:
        pynvml.nvmlShutdown()


def _init_problem(nvml: Any, error: Any) -> str:
    known = {
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver and its library have different versions, as after an update "
            "without a restart"
        ),
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver",
    }
    return known.get(error.value, f"the NVIDIA driver does not start: {error}")


def _read_cards(nvml: Any) -> Inventory:
    gpus: list[Gpu] = []
    problems: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus += _read_card(nvml, index)
        except nvml.NVMLError as error:
            problems.append(f"GPU {index} is left out: {error}")
    if not gpus and not problems:
        problems.append("the NVIDIA driver shows no GPU that can be used")
    return Inventory(tuple(gpus), "; ".join(problems) or None)


def _read_card(nvml: Any, index: int) -> list[Gpu]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    mode = _measure(nvml, None, nvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return [_describe(nvml, handle, index, None)]
    # CUDA cannot use a card in MIG mode as a whole; its slots may be empty.
    slots = _measure(nvml, 0, nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    found = []
    for slot in range(slots):
        part = _measure(nvml, None, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if part is not None:
            found.append(_describe(nvml, part, index, slot))
    return found


def _describe(nvml: Any, handle: Any, index: int, mig: int | None) -> Gpu:
    memory = _measure(nvml, None, nvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _measure(nvml, None, nvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        memory_total=memory.total if memory else 0,
        memory_used=memory.used if memory else 0,
        utilization=rates.gpu if rates else 0,
        processes=len(_measure(nvml, (), nvml.nvmlDeviceGetComputeRunningProcesses, handle)),
        mig=mig,
    )


def _measure(nvml: Any, unknown: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return `ask(*arguments)`, or `unknown`: not every card and driver measures everything."""
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return unknown


# ====== What the user demands ======


@dataclass(frozen=True)
class Demand:
    """How many GPUs (0 is the CPU), or which ones by name.

    A `firm` demand is met or refused; any other takes what there is. `source` is what the user
    wrote, for messages.
    """

    count: int
    names: tuple[str, ...] = ()
    firm: bool = False
    source: str = ""
    notices: tuple[str, ...] = ()

    @classmethod
    def of(cls, devices: str | None, gpu_required: int | None) -> Demand:
        """Return the demand of --devices and -DgpuRequired; None is not given.

        `devices` is `cpu`, `gpu` (one card), `gpu:` and a list of indices or UUIDs, or `auto`
        (as many as gpuRequired says, as far as the machine has them). `gpu_required` counts in
        hundredths of a card. --devices wins. Raises UsageError.
        """
        text = "auto" if devices is None else devices.strip()
        kind, _, names = text.partition(":")
        kind = kind.lower()
        if kind == "auto" and text.lower() == "auto":
            return cls._of_gpu_required(gpu_required, firm=devices is None)
        source = f"--devices {text}"
        notices = _overruled(source, gpu_required)
        if text.lower() == "cpu":
            return cls(0, source=source, notices=notices)
        if text.lower() == "gpu":
            return cls(1, firm=True, source=source, notices=notices)
        if kind != "gpu":
            raise UsageError(f"{source}: there is no such device", _DEVICES_HINT)
        listed = _device_names(source, names)
        return cls(len(listed), listed, firm=True, source=source, notices=notices)

    @classmethod
    def _of_gpu_required(cls, gpu_required: int | None, firm: bool) -> Demand:
        if gpu_required is None:
            return cls(1)
        source = f"-DgpuRequired={gpu_required}"
        if gpu_required < 0:
            raise UsageError(f"{source} is negative", "0 is the CPU, 100 is one card")
        count = -(-gpu_required // 100)
        notices: tuple[str, ...] = ()
        if gpu_required % 100:
            cards = "one whole card" if count == 1 else f"{count} whole cards"
            notices = (f"{source}: cards are not shared here; it counts as {cards}",)
        return cls(count, firm=firm and count > 0, source=source, notices=notices)


def _overruled(source: str, gpu_required: int | None) -> tuple[str, ...]:
    if gpu_required is None:
        return ()
    return (f"{source} is followed, -DgpuRequired={gpu_required} is not",)


def _device_names(source: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{source}: `{name}` is neither an index nor a UUID", _DEVICES_HINT)
        if names.count(name) > 1:
            raise UsageError(f"{source} names {name} twice", "name each GPU once")
    return names


# ====== The choice ======


@dataclass(frozen=True)
class Choice:
    """The devices taken, by UUID (none is the CPU), what makes them visible to TensorFlow as
    additions to the environment, and what the user should be told."""

    devices: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def choose(demand: Demand, gpus: Sequence[Gpu], reason: str | None = None) -> Choice:
    """Return which of `gpus` meet `demand`: the least used. Changes and asks nothing.

    `reason` is the inventory's. Idle cards come before busy ones, then free memory (in whole
    GiB), utilisation and index decide. Raises SetupError when the machine can never meet a firm
    demand, BusyError when it cannot now.
    """
    if demand.count == 0:
        return _cpu(demand.notices)
    if demand.names:
        return _gpus(_named(demand, gpus, reason), demand.notices)
    if demand.firm:
        return _gpus(_counted(demand, gpus, reason), demand.notices)
    if not gpus:
        return _cpu((*demand.notices, f"the job runs on the CPU: {reason or 'there is no GPU'}"))
    return _what_there_is(demand, gpus)


def _cpu(notices: tuple[str, ...]) -> Choice:
    return Choice((), {"CUDA_VISIBLE_DEVICES": "-1"}, notices)


def _gpus(gpus: Sequence[Gpu], notices: tuple[str, ...]) -> Choice:
    devices = tuple(gpu.uuid for gpu in gpus)
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    return Choice(devices, environment, notices)


def _least_used(gpu: Gpu) -> tuple[bool, int, int, int, int]:
    free = (gpu.memory_total - gpu.memory_used) // _GIB
    return gpu.busy, -free, gpu.utilization, gpu.index, gpu.mig or 0


def _together(gpus: Sequence[Gpu], count: int) -> list[Gpu]:
    """Return those that `count` devices can come from, least used first.

    A process can use one MIG device, and none beside a whole card (NVIDIA MIG User Guide).
    """
    return sorted((gpu for gpu in gpus if count == 1 or gpu.mig is None), key=_least_used)


def _named(demand: Demand, gpus: Sequence[Gpu], reason: str | None) -> list[Gpu]:
    chosen: list[Gpu] = []
    for name in demand.names:
        found = [gpu for gpu in gpus if gpu.is_called(name)]
        if len(found) != 1:
            which = "no GPU is" if not found else f"{len(found)} GPUs are"
            raise SetupError(
                f"{demand.source}: {which} called {name}; {_there_is(gpus, reason)}", _ELSE_HINT
            )
        if found[0] in chosen:
            raise SetupError(f"{demand.source} names {found[0]} twice", "name each GPU once")
        chosen += found
    if len(chosen) > 1 and any(gpu.mig is not None for gpu in chosen):
        raise SetupError(f"{demand.source}: a process can use one MIG device", "name only one")
    busy = [gpu for gpu in chosen if gpu.busy]
    if busy:
        raise BusyError(f"{demand.source}: {_in_use(busy)}", _BUSY_HINT)
    return chosen


def _counted(demand: Demand, gpus: Sequence[Gpu], reason: str | None) -> list[Gpu]:
    candidates = _together(gpus, demand.count)
    asked = "a GPU" if demand.count == 1 else f"{demand.count} GPUs in one process"
    if len(candidates) < demand.count:
        raise SetupError(f"{demand.source} asks for {asked}; {_there_is(gpus, reason)}", _ELSE_HINT)
    chosen = candidates[: demand.count]
    busy = [gpu for gpu in candidates if gpu.busy]
    if any(gpu.busy for gpu in chosen):
        raise BusyError(f"{demand.source} asks for {asked}; {_in_use(busy)}", _BUSY_HINT)
    return chosen


def _what_there_is(demand: Demand, gpus: Sequence[Gpu]) -> Choice:
    chosen = (_together(gpus, demand.count) or _together(gpus, 1)[:1])[: demand.count]
    notices = list(demand.notices)
    if len(chosen) < demand.count:
        notices.append(f"{demand.source} asks for {demand.count} GPUs; the job takes {len(chosen)}")
    busy = [gpu for gpu in chosen if gpu.busy]
    if busy:
        notices.append(f"{_in_use(busy)}; no other is used less")
    return _gpus(chosen, tuple(notices))


def _in_use(gpus: Sequence[Gpu]) -> str:
    return "; ".join(f"{gpu} is in use ({gpu.use})" for gpu in gpus)


def _there_is(gpus: Sequence[Gpu], reason: str | None) -> str:
    if not gpus:
        return f"there is none: {reason or 'the machine shows none'}"
    listed = "there is " + ", ".join(str(gpu) for gpu in gpus)
    return f"{listed} ({reason})" if reason else listed
