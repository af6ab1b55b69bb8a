"""Who and when: identifiers and times that every table shares."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import DATE, Field, text, time

FIELDS: Final[tuple[Field, ...]] = (
    # Identity
    text("site_id", "Site."),
    text("cluster_id", "Cluster; IT outside clusters is `_shared`."),
    text("rack_id", "Rack."),
    text("chassis_id", "Chassis that the node shares with others."),
    text("node_id", "Node; null for facility meters; a shared chassis stands under its chassis_id."),
    text("device_id", "Device; 'node' is the node itself."),
    text("meter_id", "Facility meter."),
    text("parent_id", "Meter upstream of this one."),
    text("hardware_class", "Hardware class of the inventory."),
    text("node_kind", "What the node does.", ("compute", "storage", "network", "service")),
    text("zone_id", "Grid zone of the intensity."),
    # Times
    Field("date", DATE, None, "UTC day."),
    time("interval_start", "Start of the interval, UTC."),
    time("hour_start", "Start of the hour, UTC."),
    time("reading_time", "Instant of the reading, or start of its window, UTC."),
    Field("reading_date", DATE, None, "UTC day of reading_time."),
    time("ingest_time", "When the batch was loaded, UTC."),
    Field("ingest_date", DATE, None, "UTC day of ingest_time; the partition of bronze."),
    time("valid_from", "First instant at which the row holds, UTC."),
    time("valid_to", "First instant at which the row no longer holds; null is open."),
    time("first_reading_time", "Earliest reading of the file."),
    time("last_reading_time", "Latest reading of the file."),
    time("start_time", "Start, UTC."),
    time("end_time", "End, UTC."),
    time("modified_time", "Modification time of the file as delivered, UTC."),
)
