"""What do the node's accelerator cards do? NVIDIA's own library says more than torch, where it is installed.

Names and units are those of MLflow's system metrics; it has none for the temperature.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

MB = 1e6


class Cards:
    """The cards this node gives to the run, by the numbers that torch has for them."""

    def __init__(self) -> None:
        self._nvml, self._handles = _nvml(os.environ)

    def read(self) -> dict[str, float]:
        """Memory, use, power and temperature of each card; of what a card does not tell, nothing."""
        if self._nvml is None:
            return _by_torch()
        found: dict[str, float] = {}
        for number, handle in enumerate(self._handles):
            told = _told(self._nvml, handle)
            found |= {f"gpu_{number}_{name}": value for name, value in told.items()}
        return found


def _nvml(env: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """NVIDIA's library and the visible cards; None without it, without its driver, or with parts of cards (MIG)."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None, []
    try:
        pynvml.nvmlInit()
        visible = env.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            names = [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
        else:
            names = [name.strip() for name in visible.split(",") if name.strip()]
        by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
        return pynvml, [by_index(int(name)) if name.isdigit() else by_uuid(name) for name in names]
    except pynvml.NVMLError:
        return None, []


def _told(nvml: Any, handle: Any) -> dict[str, float]:
    memory = _asked(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    busy = _asked(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    drawn_mw = _asked(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    limit_mw = _asked(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    heat = _asked(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    found: dict[str, float] = {}
    if memory is not None:
        found["memory_usage_megabytes"] = memory.used / MB
        found["memory_usage_percentage"] = 100 * memory.used / memory.total
    if busy is not None:
        found["utilization_percentage"] = busy.gpu
    if drawn_mw is not None:
        found["power_usage_watts"] = drawn_mw / 1000
    if drawn_mw is not None and limit_mw:
        found["power_usage_percentage"] = 100 * drawn_mw / limit_mw
    if heat is not None:
        found["temperature_celsius"] = heat
    return found


def _asked(nvml: Any, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except nvml.NVMLError:  # not every card can tell everything
        return None


def _by_torch() -> dict[str, float]:
    """Memory, once this rank has begun to use the cards; it never wakes one up."""
    import torch

    found = {}
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / MB
            found[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
    return found
