"""The forty faults that must be survived, and the tests that try each of them.

python -m tests.faults.rows          runs all of them and prints `N of 40 as expected`
python -m tests.faults.rows 6 37     runs the tests of these rows
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """A fault, and its tests: `path::function` below tests/, with [parameter] where one case of it is meant."""

    fault: str
    tests: tuple[str, ...]


_BAD = "faults/test_bad_input.py::test_what_is_bad_is_named_and_what_is_good_is_whole[{}]"
ROWS: Final[dict[int, Row]] = {
    1: Row("driver killed between bronze and silver", (
        "faults/test_kill_points.py::test_after_bronze_and_before_silver",
        "faults/test_stopped_night.py::test_the_next_night_makes_up_a_night_that_was_killed_before_gold")),
    2: Row("killed between data files and their commit", (
        "faults/test_kill_points.py::test_between_the_data_files_and_their_commit",
        "faults/test_maintain.py::test_what_a_killed_task_staged_goes_when_no_task_can_still_run")),
    3: Row("killed between a commit and the register's mark", (
        "faults/test_kill_points.py::test_after_the_commit_and_before_the_register_is_marked",
        "integration/test_bronze.py::test_a_batch_killed_at_any_point_is_finished_once")),
    4: Row("executor killed in a stage", (
        "faults/test_processes.py::test_a_killed_executor_costs_its_tasks_once_more",
        "faults/test_worker.py::test_a_killed_worker_of_spark_is_replaced")),
    5: Row("worker killed while scoring", (
        "faults/test_scoring_worker.py::test_no_partial_prediction_is_left",
        "faults/test_worker.py::test_a_killed_worker_of_spark_is_replaced")),
    6: Row("disk full as rows are staged, spilled, committed", (
        "faults/test_processes.py::test_a_full_disk_names_its_place_and_leaves_the_last_version",
        "faults/test_processes.py::test_a_full_disk_under_spark_is_told_in_one_line",
        "faults/test_words.py::test_a_full_or_read_only_lake_is_told_in_one_line")),
    7: Row("lake read-only, landing folder unreadable", (
        "faults/test_words.py::test_a_full_or_read_only_lake_is_told_in_one_line",
        "integration/test_bronze.py::test_an_unreadable_landing_folder_stops_before_anything_is_read")),
    8: Row("truncated gzip", (
        _BAD.format(8),
        "integration/test_bronze.py::test_a_truncated_gzip_is_discarded_by_name_and_the_rest_is_loaded")),
    9: Row("truncated or empty Parquet, bad magic", (_BAD.format(9),)),
    10: Row("flipped bits", (
        _BAD.format(10), "unit/ingest/test_parquet.py::test_a_damaged_page_fails_its_checksum",
        "faults/test_flipped_bits.py::test_a_task_tells_each_flipped_bit_by_table_version_and_file")),
    11: Row("the same file twice, other name, other content", (
        "integration/test_bronze.py::test_the_same_content_under_another_name_counts_as_duplicates",
        "faults/test_bad_input.py::test_a_name_delivered_again_with_other_content_is_another_file")),
    12: Row("file that still grows", (
        "integration/test_landing.py::test_what_was_appended_since_the_listing_is_left_to_the_next_run",)),
    13: Row("rows out of order", (
        _BAD.format(13), "unit/intervals/test_intervals.py::test_neither_order_nor_files_change_anything")),
    14: Row("late rows", (
        "integration/test_late_file.py"
        "::test_a_late_file_changes_its_day_and_the_intervals_across_its_midnights_and_nothing_else",
        "integration/test_late_file.py"
        "::test_the_night_of_the_late_file_says_what_it_changed_and_as_of_shows_the_old_figure")),
    15: Row("stamps far off, clocks that differ", (
        _BAD.format(15), "unit/test_decoding.py::test_stamps_are_held_against_the_time_of_the_last_writing",
        "unit/intervals/test_crosschecks.py::test_another_clock_shows_as_the_lag_of_the_best_correlation")),
    16: Row("days of 23 and 25 hours", (
        _BAD.format(16),
        "faults/test_bad_input.py::test_a_local_day_has_its_own_hours_and_the_energy_of_all_of_them")),
    17: Row("NaN, infinite, negative, absurd values", (
        _BAD.format(17), "unit/intervals/test_intervals.py::test_a_reading_far_above_the_rating_is_uncovered")),
    18: Row("counters that wrap, start anew, fall", (
        _BAD.format(18), "unit/intervals/test_counters.py::test_wraps_at_any_place_give_the_truth",
        "unit/intervals/test_counters.py::test_after_a_restart_no_range_is_added",
        "unit/intervals/test_counters.py::test_a_possible_double_wrap_is_flagged_and_uncovered")),
    19: Row("other units", (
        _BAD.format(19), "unit/intervals/test_scale.py::test_a_thousandfold_power_never_becomes_energy",
        "unit/intervals/test_scale.py::test_degrees_fahrenheit_at_the_inlet",
        "unit/intervals/test_scale.py::test_a_counter_of_another_unit")),
    20: Row("gap of six hours", (
        _BAD.format(20),
        "unit/intervals/test_integrate.py::test_the_longest_step_is_bridged_and_no_longer_one")),
    21: Row("one time, other values", (
        _BAD.format(21),
        "unit/intervals/test_intervals.py::test_repeats_go_by_file_then_position_and_are_counted")),
    22: Row("other columns", (_BAD.format(22), "integration/test_gate.py::test_a_missing_column_is_named")),
    23: Row("other encodings, separators, ragged lines", (
        _BAD.format(23), "unit/ingest/test_any_bytes.py::test_other_writing_of_the_same_text")),
    24: Row("bombs", (
        _BAD.format(24), "unit/ingest/test_codec.py::test_bombs_stop_early",
        "unit/ingest/test_documents.py::test_a_document_above_the_limit_is_refused_in_bounded_memory",
        "faults/test_worker.py::test_a_file_that_takes_too_much_memory_is_discarded_by_name")),
    25: Row("two nights of one day at once", (
        "integration/test_simulated_night.py::test_a_run_that_finds_the_lease_held_says_by_whom",
        "unit/test_lease.py::test_the_lease_of_a_killed_process_is_free_at_once",
        "unit/test_lease.py::test_of_many_that_find_a_dead_holder_at_once_one_gets_its_lease")),
    26: Row("two nights of different days at once", (
        "faults/test_processes.py::test_two_nights_of_different_days_at_once_both_commit",
        "integration/test_nights_at_once.py::test_months_and_years_of_kpis_hold_both_days",
        "integration/test_nights_at_once.py::test_the_bill_of_a_month_holds_both_days",
        "unit/test_lease.py::test_days_are_one_lease_and_another_run_gets_those_that_are_free")),
    27: Row("torn or missing commits and checkpoints", (
        "faults/test_torn_log.py::test_a_torn_commit_is_named_with_version_file_and_remedy",
        "faults/test_torn_log.py::test_a_missing_commit_is_named",
        "faults/test_torn_log.py::test_a_bad_checkpoint_costs_nothing_where_the_log_has_its_commits",
        "faults/test_torn_log.py::test_a_bad_checkpoint_whose_commits_have_expired_is_named")),
    28: Row("data file deleted under its table", (
        "unit/lake/test_check.py::test_a_damaged_and_a_lost_file_are_named_with_their_remedy",)),
    29: Row("VACUUM without retention", (
        "faults/test_kill_points.py::test_a_vacuum_without_retention_is_refused",
        "faults/test_maintain.py::test_it_never_goes_below_the_least_days")),
    30: Row("register or checkpoint lost", (
        "faults/test_register.py::test_a_register_behind_its_tables_loses_no_file",
        "faults/test_torn_log.py::test_a_register_without_its_log_is_made_again")),
    31: Row("MLflow down, slow, locked", (
        "faults/test_registry_down.py::test_a_dripping_server_is_left_at_the_deadline",
        "faults/test_registry_down.py::test_a_locked_database_is_left_at_the_deadline",
        "faults/test_registry_down.py::test_a_server_that_is_down_is_said_without_credentials",
        "faults/test_registry_down.py::test_a_night_publishes_its_figures_without_it")),
    32: Row("model tampered with, incomplete, pickled, of another release", (
        "unit/models/test_registry.py::test_tampered_folder_is_refused_by_its_hash",
        "unit/models/test_registry.py::test_pickle_canary_never_runs",
        "unit/models/test_registry.py::test_a_folder_without_its_description_is_refused",
        "unit/models/test_registry.py::test_a_model_of_another_scikit_learn_is_refused")),
    33: Row("rules of the gate missing, or raising", (
        "integration/test_gate.py::test_a_missing_rule_file_closes_the_gate_and_names_the_table",
        "integration/test_gate.py::test_rules_that_raise_close_the_gate_each_by_its_name")),
    34: Row("no input, or bad rows alone", (
        "integration/test_simulated_night.py::test_a_day_without_input_leaves_the_other_days_untouched",
        "faults/test_bad_input.py::test_a_day_of_bad_rows_alone_is_a_day_without_input")),
    35: Row("hours of the grid missing", ("integration/test_gold.py::test_case[grid_hour_missing]",)),
    36: Row("SIGTERM", (
        "faults/test_stopped_night.py::test_a_night_that_is_stopped_says_so",
        "faults/test_processes.py::test_sigterm_under_spark_submit")),
    37: Row("small heap, ten times the rows", (
        "faults/test_processes.py::test_a_day_ten_times_as_large_with_a_small_heap",
        "faults/test_processes.py::test_a_heap_that_spark_refuses_is_told_in_one_line")),
    38: Row("secrets in the settings", (
        "faults/test_secrets.py::test_a_night_says_and_writes_no_secret",
        "faults/test_secrets.py::test_spark_says_no_secret_in_its_event_log_nor_on_its_command_line")),
    39: Row("names that are SQL, paths or links", (
        "unit/config/test_settings.py::test_a_mistake_names_key_value_and_what_is_allowed",
        "unit/models/test_registry.py::test_model_names_are_checked_before_they_reach_a_query",
        "integration/test_bronze.py::test_a_link_out_of_the_landing_folder_is_not_opened")),
    40: Row("random mixtures and kills", (
        "faults/test_random_mixtures.py::test_killed_anywhere_the_next_run_gives_the_tables_of_a_quiet_one",
        "faults/test_random_mixtures.py::test_two_hundred_mixtures",
        "faults/test_soak.py::test_five_kills_leave_no_trace")),
}  # fmt: skip


def function_of(test: str) -> tuple[str, str]:
    """Return the file below tests/ and the function of a test."""
    path, _, name = test.partition("::")
    return path, name.partition("[")[0]


class Outcomes:
    """Collects what came of each test: of one with many cases the worst."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        path, _, case = report.nodeid.partition("::")
        cases = self.of.setdefault((path.removeprefix("tests/"), case.partition("[")[0]), {})
        if cases.get(case) != "failed":
            cases[case] = report.outcome

    def of_test(self, test: str) -> str:
        """Return passed, or the worst that came of it."""
        _, _, wanted = test.partition("::")
        cases = self.of.get(function_of(test), {})
        found = {of for case, of in cases.items() if "[" not in wanted or case == wanted}
        return next((worst for worst in ("failed", "skipped", "passed") if worst in found), "not run")


def main(arguments: list[str]) -> int:
    import pytest

    rows = {number: ROWS[number] for number in (map(int, arguments) if arguments else ROWS)}
    outcomes = Outcomes()
    tests = sorted({f"{TESTS}/{test}" for row in rows.values() for test in row.tests})
    code = pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[outcomes])
    as_expected = 0
    for number, row in rows.items():
        found = {test: outcomes.of_test(test) for test in row.tests}
        wrong = [f"{re.sub('.*::', '', test)} {of}" for test, of in found.items() if of != "passed"]
        as_expected += not wrong
        print(f"{number:3d}  {'as expected' if not wrong else '; '.join(wrong)}  ({row.fault})")
    print(f"{as_expected} of {len(rows)} as expected")
    return int(code != 0 or as_expected < len(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
