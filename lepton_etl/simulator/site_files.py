"""Files of the site rather than of a node: weather, grid, inventory, meter list, settings of a night."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import yaml

from lepton_etl.simulator import power
from lepton_etl.simulator.facility import TRANSFORMER_LOSS, Ratings, ratings
from lepton_etl.simulator.grid import GridHours
from lepton_etl.simulator.meters import meters_of
from lepton_etl.simulator.plan import FleetPlan, LocalSource
from lepton_etl.simulator.weather import MINUTES_PER_DAY, Weather

# The publisher's own words; CO₂ has the subscript two (U+2082), lines end in CR LF.
GRID_HEADER: Final = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO\u2082eq/kWh (direct),"
    "Carbon Intensity gCO\u2082eq/kWh (LCA),Low Carbon Percentage,Renewable Percentage,Data Source,"
    "Data Estimated,Data Estimation Method"
)


def write_weather(plan: FleetPlan, site_weather: Weather, landing: Path) -> int:
    """landing/weather/weather-DATE.csv: instants of dry and wet bulb, degC, one decimal."""
    step_min = plan.weather_period_s // 60
    for day, date in enumerate(plan.dates):
        lines = ["time,dry_bulb_c,wet_bulb_c"]
        midnight = plan.start_time + timedelta(days=day)
        for minute in range(0, MINUTES_PER_DAY, step_min):
            stamp = (midnight + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
            at = day * MINUTES_PER_DAY + minute
            lines.append(f"{stamp},{site_weather.dry_bulb_c[at]:.1f},{site_weather.wet_bulb_c[at]:.1f}")
        _write(landing / "weather" / f"weather-{date}.csv", lines)
    return plan.days


def write_grid(plan: FleetPlan, hours: GridHours, landing: Path) -> int:
    """landing/grid/grid-DATE.csv in Electricity Maps' columns; the stamp names the start of the hour."""
    for day, date in enumerate(plan.dates):
        lines = [GRID_HEADER]
        for hour in range(24):
            at = day * 24 + hour
            stamp = (plan.start_time + timedelta(hours=at)).strftime("%Y-%m-%d %H:%M:%S")
            estimated = "true,TIME_SLICER_AVERAGE" if hours.estimated[at] else "false,"
            lines.append(
                f"{stamp},Simulation,{plan.grid_zone},{plan.grid_zone},{hours.direct_g_per_kwh[at]:.2f},"
                f"{hours.lifecycle_g_per_kwh[at]:.2f},{hours.low_carbon_percent[at]:.2f},"
                f"{hours.renewable_percent[at]:.2f},simulated,{estimated}"
            )
        _write(landing / "grid" / f"grid-{date}.csv", lines, newline="\r\n")
    return plan.days


def write_inventory(plan: FleetPlan, out: Path) -> None:
    """inventory.csv: one row a node; powers are AC input, rated at full load and idle at 22 degC inlet."""
    lines = [
        "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,"
        "valid_from,node_kind,gpu_count,gpu_rated_power_w,psu_count,sensor_gain_ratio,core_count,memory_total_byte,"
        "cpu_idle_power_w,memory_idle_power_w,gpu_idle_power_w"
    ]
    for cluster in plan.clusters:
        hardware = cluster.hardware
        rated_w, idle_w = power.rated_power_w(hardware), power.idle_power_w(hardware)
        gpu_rated_w = f"{hardware.gpu_rated_w:g}" if hardware.gpu_count else ""
        cpu_idle_w, memory_idle_w, gpu_idle_w = power.idle_parts_w(hardware)
        parts = f"{hardware.core_count},{hardware.memory_mib_per_slot * hardware.slots * 2**20},"
        parts += f"{cpu_idle_w:g},{memory_idle_w:g},{f'{gpu_idle_w:g}' if hardware.gpu_count else ''}"
        for index, node_id in enumerate(cluster.node_ids()):
            lines.append(
                f"{node_id},{cluster.cluster_id},{cluster.cluster_id}-r{cluster.rack_of(index) + 1:02d},"
                f"{hardware.name},"
                f"{rated_w:g},{idle_w:g},{hardware.embodied_total_kgco2e:g},{hardware.lifetime_years:g},"
                f"{plan.first_date},compute,{hardware.gpu_count},{gpu_rated_w},{hardware.psu_count},"
                f"{'' if plan.sensor_gain_sigma is None else f'{plan.sensor_gain_sigma:g}'},{parts}"
            )
    _write(out / "inventory.csv", lines)


def write_meter_list(plan: FleetPlan, out: Path) -> None:
    """meters.csv: what each meter measures and how well."""
    lines = [
        "meter_id,site_id,parent_id,point,serves,carrier,sign,unit,multiplier,kind,label,class_pct,valid_from,valid_to"
    ]
    for meter in meters_of(plan):
        unit, kind = ("L", "counter") if meter.is_register else ("kW", "power")
        lines.append(
            f"{meter.meter_id},{plan.site_id},{meter.parent_id},{meter.point},{meter.serves},{meter.carrier},1,"
            f"{unit},1,{kind},start,{meter.class_pct:g},{plan.first_date},"
        )
    _write(out / "meters.csv", lines)


def settings_of(plan: FleetPlan) -> dict[str, object]:
    """Settings with which a night runs on the tree, paths relative to it."""
    node_id = r"(?P<node_id>[^/]+)-\d{4}-\d\d-\d\d\."
    sources: list[dict[str, object]] = [
        {"name": "bmc", "format": "ipmitool", "path": "landing/ipmi/*.txt.gz", "node_id_from_path": node_id,
         "timezone": "UTC", "sampling_period_s": plan.bmc_period_s},
        _meter_source(plan, "meters", "power_kw", "facility_power"),
        _meter_source(plan, "heat", "heat_kw", "heat_power"),
        _register_source(plan, "water", "water_volume"),
        {"name": "weather", "format": "delimited", "path": "landing/weather/*.csv",
         "time": {"column": "time"}, "device_id": {"value": "weather"},
         "sampling_period_s": plan.weather_period_s,
         "readings": [
             {"column": "dry_bulb_c", "quantity": "outdoor_dry_bulb_temperature", "unit": "degC"},
             {"column": "wet_bulb_c", "quantity": "outdoor_wet_bulb_temperature", "unit": "degC"}]},
    ]  # fmt: skip
    if any(cluster.hardware.gpu_count for cluster in plan.clusters):
        sources.insert(1, {"name": "gpu", "format": "prometheus", "path": "landing/prom/*.prom.gz",
                           "node_id_from_path": node_id, "sampling_period_s": plan.gpu_period_s})  # fmt: skip
    sources += [
        {"name": "jobs", "format": "slurm", "path": "landing/slurm/sacct-*.txt", "timezone": "UTC"},
        {"name": "holdings", "format": "scontrol", "path": "landing/slurm/scontrol-*.txt", "timezone": "UTC"},
    ]
    if LocalSource.GENERATOR in plan.local_sources:
        sources.append(_register_source(plan, "fuel", "fuel_volume"))
    return {
        "site": {"site_id": plan.site_id, "timezone": plan.timezone},
        "lake": {"root": "lake"},
        "mlflow": {"tracking_uri": "sqlite:///mlflow.db", "artifact_location": "mlartifacts"},
        "fleet": {"inventory": "inventory.csv"},
        "sources": sources,
        "facility": {"meters": "meters.csv", "pue_assumed": None, "transformer": _transformer(plan),
                     "operating": _operating(plan)},
        "grid": {"zone": plan.grid_zone, "intensity": "landing/grid/*.csv", "format": "electricitymaps",
                 "intensity_basis": "direct", "signal": "average", "flow": "consumption", "label": "start"},
    }  # fmt: skip


def _meter_source(plan: FleetPlan, folder: str, column: str, quantity: str) -> dict[str, object]:
    """Files of meters that tell mean powers of windows, kW."""
    reading: dict[str, object] = {"column": column, "quantity": quantity, "unit": "kW", "statistic": "mean",
               "window_s": plan.meter_period_s}  # fmt: skip
    return _by_meter(plan, folder, reading)


def _register_source(plan: FleetPlan, folder: str, quantity: str) -> dict[str, object]:
    """Files of meters that tell a register, L."""
    return _by_meter(
        plan, folder, {"column": "register_l", "quantity": quantity, "unit": "L", "statistic": "counter"}
    )


def _by_meter(plan: FleetPlan, folder: str, reading: dict[str, object]) -> dict[str, object]:
    return {"name": folder, "format": "delimited", "path": f"landing/{folder}/*.csv",
            "time": {"column": "time"}, "device_id": {"column": "meter_id"},
            "sampling_period_s": plan.meter_period_s, "readings": [reading]}  # fmt: skip


def _sizes(plan: FleetPlan) -> Ratings:
    return ratings(sum(power.rated_power_w(cluster.hardware) * cluster.nodes for cluster in plan.clusters))


def _transformer(plan: FleetPlan) -> dict[str, float]:
    """The nameplate that a real transformer carries: rating, loss at no load, loss added at full load."""
    no_load, _, load = TRANSFORMER_LOSS
    return {"rated_power_w": round(_sizes(plan).transformer_w, 1), "no_load_loss_ratio": no_load,
            "load_loss_ratio": load}  # fmt: skip


def _operating(plan: FleetPlan) -> dict[str, object]:
    """What the planners of the air side would state: fans that carry all the cooling at 12 K."""
    sizes = _sizes(plan)
    return {
        "supply_temp_c": 21.0, "flow_ratio": 0.7, "fan_power_w": round(sizes.crah_fans_w, 1),
        "heat_w_per_k": round(sizes.cooling_w / 12.0, 1), "outlet_max_c": 45.0, "rise_k": 12.0,
        "flow_need_ratio": 0.6, "recirculation_ratio": 0.6, "chiller_gain_per_k": 0.025, "it_knee_c": 25.0,
        "it_rise_per_k": 0.008, "flow_min_ratio": 0.45, "flow_max_ratio": 1.0, "inlet_class": "recommended",
    }  # fmt: skip


def write_settings(plan: FleetPlan, out: Path) -> None:
    """config.yaml beside the landing folder."""
    head = f"# Simulated site {plan.site_id}, seed {plan.seed}. Paths are relative to this file.\n"
    text = yaml.safe_dump(settings_of(plan), sort_keys=False, allow_unicode=True, width=110)
    (out / "config.yaml").write_text(head + text, encoding="utf-8", newline="\n")


def _write(path: Path, lines: list[str], newline: str = "\n") -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline=newline)
