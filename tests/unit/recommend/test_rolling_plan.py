"""A plan made anew an hour later."""

from __future__ import annotations

from bench.rolling_plan import advance
from lepton_etl.recommend.job_shift import plan
from tests.unit.recommend.job_problems import job, problem, site, wave


def test_an_hour_later_what_began_is_kept_and_the_rest_is_planned_anew() -> None:
    jobs = [
        job("now", deadline_h=2),
        job("later"),
        job("pauses", preemptible=True, deadline_h=5, duration_h=2.0),
    ]
    values = [0.2, 0.5, 0.5, 0.5, 0.1, 0.1]
    asked = problem(jobs, sites=[site(intensity=wave(values))])
    made = plan(asked, seconds=5)
    by_id = {one.job_id: one for one in made.jobs}
    assert by_id["pauses"].hours == (0, 4)
    then = advance(
        asked, made, 1, asked.groups, (site(intensity=wave([*values[1:], 0.3])),), (job("new", release_h=2),)
    )
    left = {one.job_id: one for one in then.jobs}
    assert set(left) == {"later", "pauses", "new"}
    assert then.groups[0].capacity.tolist() == [3, 4, 4, 4, 4, 4]
    assert (left["pauses"].duration_h, left["pauses"].deadline_h) == (1.0, 4)
    assert left["later"].deadline_h == 5
    again = {one.job_id: one.hours for one in plan(then, seconds=5).jobs}
    assert again["pauses"] == (3,)
    assert again["later"] == (3, 4)
