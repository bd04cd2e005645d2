"""The search on measurements that are calculated: no ONNX, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.bench.stats import Interval, Ratio
from edgeseq.quantization.budget import Budget, Quality
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.search import Outcome, Tried, Tuned, search

SOURCE_BYTES = 1000


@dataclass
class Form:
    """What one candidate does to one layer."""

    error: float
    saves_bytes: int = 100
    time: float = 1.0
    held_out_error: float | None = None
    declined: str = ""


@dataclass
class CalculatedTrial:
    """Errors add up, savings add up, times multiply."""

    forms: Mapping[tuple[str, str], Form]
    asked: list[dict[str, str]] = field(default_factory=list)
    times: list[Ratio] = field(default_factory=list)
    timed: list[dict[str, str]] = field(default_factory=list)

    def _chosen(self, choices: Mapping[str, str]) -> list[Form]:
        forms = [self.forms[item] for item in choices.items()]
        for form in forms:
            if form.declined:
                raise Declined(form.declined)
        return forms

    def quality(self, choices: Mapping[str, str]) -> Quality:
        self.asked.append(dict(choices))
        return Quality(error=sum(form.error for form in self._chosen(choices)))

    def held_out_quality(self, choices: Mapping[str, str]) -> Quality | None:
        errors = [form.error if form.held_out_error is None else form.held_out_error for form in self._chosen(choices)]
        return Quality(error=sum(errors))

    def size_bytes(self, choices: Mapping[str, str]) -> int:
        return SOURCE_BYTES - sum(form.saves_bytes for form in self._chosen(choices))

    def time_ratio(self, choices: Mapping[str, str]) -> Ratio:
        if self.times:
            return self.times.pop(0)
        self.timed.append(dict(choices))
        return exactly(math.prod(form.time for form in self._chosen(choices)))

    def tuned(self, choices: Mapping[str, str], time: Ratio) -> Tuned:
        self._chosen(choices)
        return Tuned(threads=3, time=time)

    def source_latency_ms(self) -> float:
        return 10.0


def exactly(value: float) -> Ratio:
    return Ratio(value=value, interval=Interval(low=value, high=value))


def layers_of(forms: Mapping[tuple[str, str], Form]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for layer, candidate in forms:
        layers.setdefault(layer, []).append(candidate)
    return layers


BUDGET = Budget(max_error=0.02, max_drop=None)


def run(forms: Mapping[tuple[str, str], Form], budget: Budget = BUDGET) -> Outcome:
    return search(layers_of(forms), CalculatedTrial(forms), budget)


def reason_of(outcome: Outcome, layer: str, candidate: str) -> str:
    return next(t.declined for t in outcome.tried if (t.layer, t.candidate) == (layer, candidate))


def test_the_largest_gain_in_size_and_time_is_chosen() -> None:
    outcome = run(
        {
            ("a", "small"): Form(0.001, saves_bytes=300),
            ("a", "small and fast"): Form(0.01, saves_bytes=290, time=0.5),
            ("b", "fast"): Form(0.001, saves_bytes=0, time=0.8),
        }
    )
    assert outcome.choices == {"a": "small and fast", "b": "fast"}
    assert outcome.tuned == Tuned(threads=3, time=exactly(0.5 * 0.8))


def test_of_gains_that_are_alike_the_smaller_error_is_chosen() -> None:
    outcome = run({("a", "coarse"): Form(0.01, saves_bytes=400), ("a", "fine"): Form(0.001, saves_bytes=395)})
    assert outcome.choices == {"a": "fine"}


def test_of_gains_and_errors_that_are_alike_the_faster_is_chosen() -> None:
    outcome = run({("a", "slow"): Form(0.01, time=1.005), ("a", "fast"): Form(0.01, time=0.995)})
    assert outcome.choices == {"a": "fast"}


def test_of_equal_candidates_the_first_is_chosen() -> None:
    outcome = run({("a", "first"): Form(0.01), ("a", "second"): Form(0.01)})
    assert outcome.choices == {"a": "first"}


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Form(0.03), "error 3.00% is over the budget of 2.00%"),
        (Form(math.nan), "error nan% is over the budget of 2.00%"),
        (Form(math.inf), "error inf% is over the budget of 2.00%"),
        (Form(0.001, time=1.2), "it is slower than fp32: 1.20 times its time"),
        (Form(0.001, saves_bytes=-5), "it makes the file no smaller, and not measurably faster"),
        (Form(0.001, declined="it does not load"), "it does not load"),
    ],
)
def test_a_candidate_is_declined_with_its_reason(form: Form, reason: str) -> None:
    outcome = run({("a", "it"): form})
    assert outcome.choices == {}
    assert outcome.tuned is None
    assert reason_of(outcome, "a", "it") == reason


def test_a_single_bad_time_is_measured_again() -> None:
    forms = {("a", "it"): Form(0.001)}
    trial = CalculatedTrial(forms, times=[exactly(1.5), exactly(1.0), exactly(1.5), exactly(1.0)])
    assert search(layers_of(forms), trial, BUDGET).choices == {"a": "it"}


def test_a_time_whose_interval_reaches_fp32_is_not_slower() -> None:
    forms = {("a", "it"): Form(0.001)}
    noisy = Ratio(value=1.05, interval=Interval(low=0.97, high=1.12))
    trial = CalculatedTrial(forms, times=[noisy, noisy])
    assert search(layers_of(forms), trial, BUDGET).choices == {"a": "it"}


def test_an_uncertain_gain_in_time_counts_as_none() -> None:
    forms = {("a", "it"): Form(0.001, saves_bytes=0)}
    trial = CalculatedTrial(forms, times=[Ratio(value=0.9, interval=Interval(low=0.7, high=1.1))])
    outcome = search(layers_of(forms), trial, BUDGET)
    assert reason_of(outcome, "a", "it") == "it makes the file no smaller, and not measurably faster"


def test_a_combination_over_the_budget_loses_the_worst_error_for_its_gain() -> None:
    outcome = run(
        {
            ("sensitive", "int8"): Form(0.018, saves_bytes=100),
            ("useful", "int8"): Form(0.015, saves_bytes=500),
            ("cheap", "int8"): Form(0.001, saves_bytes=50),
        }
    )
    assert outcome.choices == {"useful": "int8", "cheap": "int8"}
    assert outcome.reverted == {("sensitive", "int8"): "with the other layers, error 3.40% is over the budget of 2.00%"}


def test_a_layer_steps_down_to_its_next_form_before_it_goes_back_to_fp32() -> None:
    outcome = run(
        {
            ("sensitive", "int8"): Form(0.018, saves_bytes=100),
            ("sensitive", "half"): Form(0.0001, saves_bytes=60),
            ("useful", "int8"): Form(0.015, saves_bytes=500),
        }
    )
    assert outcome.choices == {"sensitive": "half", "useful": "int8"}


def test_the_budget_must_hold_on_held_out_rows_too() -> None:
    outcome = run(
        {
            ("overfitted", "int8"): Form(0.001, saves_bytes=100, held_out_error=0.5),
            ("fine", "int8"): Form(0.0005, saves_bytes=100),
        }
    )
    assert outcome.choices == {"fine": "int8"}
    assert outcome.reverted["overfitted", "int8"].startswith("on the held-out rows, error 50.05%")


def test_the_held_out_rows_choose_nothing() -> None:
    # The form that would be best on the held-out rows is not preferred.
    outcome = run(
        {("a", "x"): Form(0.01, held_out_error=0.0), ("a", "y"): Form(0.009, held_out_error=0.019)},
    )
    assert outcome.choices == {"a": "y"}


def test_a_combination_slower_than_fp32_loses_its_slowest_layer() -> None:
    forms = {("a", "int8"): Form(0.001, time=1.009), ("b", "int8"): Form(0.001, time=1.008)}
    outcome = run(forms)
    assert outcome.choices == {"b": "int8"}
    assert outcome.reverted["a", "int8"] == "with the other layers, the file is slower than fp32: 1.02 times its time"


def test_forms_that_do_not_fit_together_are_taken_apart() -> None:
    class Quarrelling(CalculatedTrial):
        def quality(self, choices: Mapping[str, str]) -> Quality:
            if len(choices) == 2:
                raise Declined("they share a weight")
            return super().quality(choices)

    forms = {("a", "int8"): Form(0.01), ("b", "int8"): Form(0.001)}
    outcome = search(layers_of(forms), Quarrelling(forms), BUDGET)
    assert outcome.choices == {"b": "int8"}
    assert outcome.reverted["a", "int8"] == "with the other layers: they share a weight"


def test_a_metric_budget_needs_a_finite_metric() -> None:
    budget = Budget(max_error=None, max_drop=0.01)
    assert budget.broken_by(Quality(error=0.5, drop=0.01)) == ""
    assert budget.broken_by(Quality(error=0.5, drop=-1.0)) == ""
    assert budget.broken_by(Quality(error=0.5, drop=0.02)) == "the metric drops by 0.02, over the budget of 0.01"
    assert budget.broken_by(Quality(error=math.inf, drop=None)) == "the answers are not finite"


def test_a_layer_comes_back_when_a_later_step_made_room_for_it() -> None:
    """small is taken back first, but what is too much together is large with middle; large and small fit."""
    outcome = run(
        {
            ("large", "int8"): Form(0.015, saves_bytes=500),
            ("middle", "int8"): Form(0.014, saves_bytes=300),
            ("small", "int8"): Form(0.004, saves_bytes=60),
        }
    )
    assert outcome.choices == {"large": "int8", "small": "int8"}
    assert set(outcome.reverted) == {("middle", "int8")}


def test_no_combination_is_verified_twice() -> None:
    forms = {(layer, "int8"): Form(0.015) for layer in "abcd"}
    trial = CalculatedTrial(forms)
    search(layers_of(forms), trial, BUDGET)
    combinations = [tuple(sorted(choices)) for choices in trial.asked if len(choices) > 1]
    assert len(combinations) == len(set(combinations))


GOALS = {
    ("a", "small"): Form(0.01, saves_bytes=600, time=0.9),
    ("a", "fast"): Form(0.01, saves_bytes=100, time=0.5),
    ("a", "both"): Form(0.01, saves_bytes=500, time=0.6),
    ("a", "smallest"): Form(0.01, saves_bytes=900, time=1.5),
}


@pytest.mark.parametrize(("goal", "best"), [("balanced", "both"), ("latency", "fast"), ("size", "smallest")])
def test_the_goal_says_what_gain_is(goal: str, best: str) -> None:
    outcome = search(layers_of(GOALS), CalculatedTrial(GOALS), BUDGET, goal=goal)
    assert outcome.choices == {"a": best}
    if goal != "size":
        assert reason_of(outcome, "a", "smallest") == "it is slower than fp32: 1.50 times its time"


@pytest.mark.parametrize("goal", ["latency", "size"])
def test_what_is_not_the_goal_decides_between_forms_alike_in_it(goal: str) -> None:
    forms = {("a", "plain"): Form(0.01, 500, 0.5), ("a", "better"): Form(0.01, 510, 0.4 if goal == "size" else 0.495)}
    assert search(layers_of(forms), CalculatedTrial(forms), BUDGET, goal=goal).choices == {"a": "better"}


@pytest.mark.parametrize(
    ("limits", "best", "goal"),
    [
        ({"max_size_bytes": 600}, "both", "balanced"),
        ({"max_size_bytes": 150}, "smallest", "size"),
        ({"max_latency_ms": 5.0}, "fast", "latency"),
        ({"max_latency_ms": 6.0, "max_size_bytes": 600}, "both", "balanced"),
    ],
)
def test_limits_of_size_and_time_may_need_another_goal(limits: dict[str, float], best: str, goal: str) -> None:
    budget = Budget(max_error=0.02, max_drop=None, **limits)  # type: ignore[arg-type]
    outcome = search(layers_of(GOALS), CalculatedTrial(GOALS), budget)
    assert (outcome.choices, outcome.goal, outcome.unmet) == ({"a": best}, goal, "")


def test_limits_that_nothing_keeps_name_the_nearest() -> None:
    budget = Budget(max_error=0.02, max_drop=None, max_size_bytes=50, max_latency_ms=20.0)
    outcome = search(layers_of(GOALS), CalculatedTrial(GOALS), budget)
    assert outcome.choices == {"a": "smallest"}
    assert outcome.unmet == "100 B is over the budget of 50 B"
    budget = Budget(max_error=0.001, max_drop=None, max_latency_ms=9.0)
    outcome = search(layers_of(GOALS), CalculatedTrial(GOALS), budget)
    assert (outcome.choices, outcome.unmet) == ({}, "10.0 ms is over the budget of 9.00 ms")


def test_fp32_that_keeps_the_limits_is_kept() -> None:
    forms = {("a", "int8"): Form(0.5)}
    budget = Budget(max_error=0.02, max_drop=None, max_size_bytes=SOURCE_BYTES, max_latency_ms=10.0)
    outcome = search(layers_of(forms), CalculatedTrial(forms), budget)
    assert (outcome.choices, outcome.unmet) == ({}, "")


def test_what_is_known_is_not_measured_again() -> None:
    forms = {("a", "x"): Form(0.01, 300), ("a", "y"): Form(0.01, 200), ("b", "x"): Form(0.5)}
    told: list[Tried] = []
    whole = search(layers_of(forms), CalculatedTrial(forms), BUDGET, tell=told.append)
    assert [(entry.layer, entry.candidate) for entry in told] == list(forms)
    trial = CalculatedTrial(forms)
    more: list[Tried] = []
    resumed = search(layers_of(forms), trial, BUDGET, known=told[:2], tell=more.append)
    assert resumed == whole
    assert more == told[2:]
    assert trial.asked == [{"b": "x"}, {"a": "x"}]


def test_for_the_smallest_file_no_time_is_spent_on_what_is_larger_and_worse() -> None:
    forms = {("a", "good"): Form(0.001, 500), ("a", "worse"): Form(0.01, 400), ("a", "smaller"): Form(0.01, 600)}
    trial = CalculatedTrial(forms)
    outcome = search(layers_of(forms), trial, BUDGET, goal="size")
    assert {"a": "worse"} not in trial.timed
    assert reason_of(outcome, "a", "worse") == "good is smaller and has less error"
    # For any other goal it could be the fastest.
    trial = CalculatedTrial(forms)
    search(layers_of(forms), trial, BUDGET)
    assert {"a": "worse"} in trial.timed


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["int8", "half", "int4"])),
        st.builds(
            Form,
            error=st.floats(0, 0.03),
            saves_bytes=st.integers(-50, 200),
            time=st.floats(0.5, 1.5),
            held_out_error=st.none() | st.floats(0, 0.03),
        ),
    )
)
def test_whatever_is_measured_the_choice_keeps_every_budget(forms: dict[tuple[str, str], Form]) -> None:
    trial = CalculatedTrial(forms)
    outcome = search(layers_of(forms), trial, BUDGET)
    held_out = trial.held_out_quality(outcome.choices)
    assert held_out is not None
    assert trial.quality(outcome.choices).error <= 0.02
    assert held_out.error <= 0.02
    assert trial.time_ratio(outcome.choices).value <= 1.01
    explained = {(t.layer, t.candidate) for t in outcome.tried if t.declined} | set(outcome.reverted)
    left_alone = set(layers_of(forms)) - set(outcome.choices)
    assert all((layer, name) in explained for layer in left_alone for name in layers_of(forms)[layer])
