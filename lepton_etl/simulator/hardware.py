"""Hardware classes: rated and idle powers and the thermal figures of a node, each with its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class HardwareClass:
    """One kind of node. Powers in W on the DC side of the supplies, thermal resistances in K/W.

    `layout` names the sensor table its management controller prints (formats.py); `psu_rating_w` is the DC
    rating of one supply. A board cut into `mig_instances` instances of `mig_profile` is let by instance.
    Source: orders of magnitude of vendors' data sheets (two-socket servers, 400 W and 700 W accelerators)
    and of the public measurements named in docs/simulator.md; no single machine is copied.
    """

    name: str
    layout: str
    sockets: int
    cpu_idle_w: float
    cpu_dynamic_w: float
    base_w: float
    dram_idle_w: float
    dram_dynamic_w: float
    gpu_count: int
    gpu_idle_w: float
    gpu_rated_w: float
    gpu_model: str
    gpu_idle_mhz: int
    gpu_max_mhz: int
    fan_count: int
    fans_rated_w: float
    fan_max_rpm: float
    psu_count: int
    psu_rating_w: float
    standby_w: float
    embodied_kgco2e: float
    gpu_embodied_kgco2e: float
    lifetime_years: float
    cpu_k_per_w: float
    gpu_k_per_w: float
    cores: int
    memory_gib: int
    mig_instances: int = 0
    mig_profile: str = ""

    @property
    def units(self) -> int:
        """GPUs as jobs hold them: boards, or their MIG instances."""
        return self.gpu_count * (self.mig_instances or 1)

    @property
    def slots(self) -> int:
        """Shares in which a node is let: one a GPU or MIG instance, else quarters of the node."""
        return self.units or 4

    @property
    def cores_per_slot(self) -> int:
        """Cores that go with a slot; what a division leaves over is not let."""
        return self.cores // self.slots

    @property
    def core_count(self) -> int:
        """Cores that are let."""
        return self.cores_per_slot * self.slots

    @property
    def memory_mib_per_slot(self) -> int:
        """Memory that goes with a slot, MiB."""
        return self.memory_gib * 1024 // self.slots

    @property
    def embodied_total_kgco2e(self) -> float:
        """Embodied emissions of the node with its GPUs, kgCO2e."""
        return self.embodied_kgco2e + self.gpu_count * self.gpu_embodied_kgco2e

    def with_gpus(self, count: int | None) -> HardwareClass:
        """The same node with `count` GPUs (None: unchanged), its fans and supplies scaled with them."""
        if count is None or count == self.gpu_count:
            return self
        host_w = self.sockets * (self.cpu_idle_w + self.cpu_dynamic_w) + self.base_w + self.dram_dynamic_w
        scale = (host_w + count * self.gpu_rated_w) / (host_w + self.gpu_count * self.gpu_rated_w)
        return replace(
            self,
            gpu_count=count,
            fans_rated_w=round(self.fans_rated_w * scale, 1),
            psu_rating_w=math.ceil(self.psu_rating_w * scale / 100) * 100.0,
        )


CPU_NODE: Final = HardwareClass(
    name="cpu-2s", layout="xcc", sockets=2, cpu_idle_w=42.0, cpu_dynamic_w=190.0, base_w=48.0,
    dram_idle_w=18.0, dram_dynamic_w=42.0, gpu_count=0, gpu_idle_w=0.0, gpu_rated_w=0.0, gpu_model="",
    gpu_idle_mhz=0, gpu_max_mhz=0, fan_count=6, fans_rated_w=72.0, fan_max_rpm=16000.0, psu_count=2,
    psu_rating_w=750.0, standby_w=14.0, embodied_kgco2e=1100.0, gpu_embodied_kgco2e=0.0,
    lifetime_years=5.0, cpu_k_per_w=0.17, gpu_k_per_w=0.0, cores=64, memory_gib=256,
)  # fmt: skip
GPU_400: Final = HardwareClass(
    name="gpu-400", layout="xcc_psu", sockets=2, cpu_idle_w=48.0, cpu_dynamic_w=160.0, base_w=90.0,
    dram_idle_w=30.0, dram_dynamic_w=50.0, gpu_count=4, gpu_idle_w=56.0, gpu_rated_w=400.0,
    gpu_model="SIM 400W 80GB", gpu_idle_mhz=210, gpu_max_mhz=1410, fan_count=6, fans_rated_w=220.0,
    fan_max_rpm=16000.0, psu_count=2, psu_rating_w=2400.0, standby_w=22.0, embodied_kgco2e=1500.0,
    gpu_embodied_kgco2e=150.0, lifetime_years=5.0, cpu_k_per_w=0.17, gpu_k_per_w=0.085, cores=64, memory_gib=512,
)  # fmt: skip
GPU_700: Final = HardwareClass(
    name="gpu-700", layout="idrac", sockets=2, cpu_idle_w=62.0, cpu_dynamic_w=230.0, base_w=260.0,
    dram_idle_w=60.0, dram_dynamic_w=90.0, gpu_count=8, gpu_idle_w=75.0, gpu_rated_w=700.0,
    gpu_model="SIM 700W 80GB", gpu_idle_mhz=345, gpu_max_mhz=1980, fan_count=8, fans_rated_w=900.0,
    fan_max_rpm=17000.0, psu_count=6, psu_rating_w=2800.0, standby_w=45.0, embodied_kgco2e=2400.0,
    gpu_embodied_kgco2e=165.0, lifetime_years=5.0, cpu_k_per_w=0.15, gpu_k_per_w=0.056, cores=112, memory_gib=2048,
)  # fmt: skip
# Two of the 400 W boards, each in seven instances of one compute slice.
GPU_MIG: Final = replace(
    GPU_400.with_gpus(2), name="gpu-mig", cores=56, memory_gib=448, mig_instances=7, mig_profile="1g.10gb"
)
CLASSES: Final = {hardware.name: hardware for hardware in (CPU_NODE, GPU_400, GPU_700, GPU_MIG)}
