"""The search: what is tried, what is dropped, what is ranked first, and what wins, with times that are made up."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from tritonlstm.launch import Config, config
from tritonlstm.launch.tables import ConfigKey, ScheduleKey
from tritonlstm.tuning import search
from tritonlstm.tuning.cases import CASES, Case
from tritonlstm.tuning.inspect import Figures
from tritonlstm.tuning.launches import Launch, Layer
from tritonlstm.tuning.search import Bench

LAUNCHES = [Launch("gates_forward", "bf16", 64, "channel", *size) for size in ((8, 64, 64), (1, 16, 16))]
KEY = ConfigKey("gates_forward", 2, 64)
DEFAULT = Config(1024, 4)
GOOD = Figures(registers=64, spills=0, shared=0, accesses={"16": 21}, instructions=1000, warps=32)
CANDIDATES = search.candidates("sm_90", KEY)
COMPILED = [(candidate, GOOD) for candidate in CANDIDATES]
PLANTED = Config(512, 2)


def figures(**changes: object) -> Figures:
    return replace(GOOD, **changes)


def bench(seconds: Callable[[Config], float], wrong: Sequence[Config] = (), ran: list | None = None) -> Bench:
    """A device on which a launch with a configuration takes `seconds`. Those in `wrong` have wrong results."""

    def bind(launch: Launch, choice: Config) -> Callable[[], float]:
        def run() -> float:
            if ran is not None:
                ran.append((choice, launch))
            return seconds(choice)

        return run

    return Bench(
        bind=bind,
        check=lambda launch, choice: f"output: {launch.dtype} at {launch.channels}" if choice in wrong else "",
        time=lambda runs: [[run(), 1e3 * run(), run()] for run in runs],  # one run in three is disturbed
    )


def find(compiled: Sequence[tuple[Config, Figures | str]], device: Bench | None) -> search.Outcome:
    return search.search("sm_90", LAUNCHES, compiled, device)


def trial(outcome: search.Outcome, candidate: Config) -> search.Trial:
    (found,) = [each for each in outcome.trials if each.choice == candidate]
    return found


def test_launches_are_of_kernels_and_channels_with_all_their_sizes():
    found = search.launches([CASES["paper"], CASES["nowcast"]], "bf16", ("gates_forward", "parameter_grads"))
    assert [(key.kernel, key.channels) for key in found] == [
        ("gates_forward", 128),
        ("gates_forward", 64),
        ("parameter_grads", 128),
        ("parameter_grads", 64),
    ]
    sizes = {key.channels: [(launch.batch, launch.height, launch.width) for launch in found[key]] for key in found}
    assert sizes == {128: [(16, 16, 16)], 64: [(16, 16, 16), (8, 128, 128)]}
    assert all(launch.kernel == key.kernel and launch.dtype == "bf16" for key in found for launch in found[key])


def test_layers_with_one_key_are_chosen_for_together():
    found = search.layers([CASES["paper"], CASES["openstl"]], "bf16")
    assert list(found) == [
        ScheduleKey(2, 16, 128, (5, 5)),
        ScheduleKey(2, 128, 64, (5, 5)),
        ScheduleKey(2, 64, 64, (5, 5)),
        ScheduleKey(2, 128, 128, (5, 5)),
    ]
    first = found[ScheduleKey(2, 16, 128, (5, 5))]
    assert [layer.mode for layer in first] == ["inference", "training"], "the same layer in both cases"
    larger = search.layers([CASES["paper"], CASES["paper"].but(height=32)], "bf16")
    assert [layer.case.height for layer in larger[ScheduleKey(2, 64, 64, (5, 5))]] == [16, 32, 16, 32]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("kernel", ["gates_forward", "gates_backward", "parameter_grads"])
def test_candidates(arch: str, itemsize: int, kernel: str):
    key = ConfigKey(kernel, itemsize, 64)
    found = search.candidates(arch, key)
    assert found[0] == config.find_config(kernel, arch, itemsize, 64, user=False)[0].value
    assert len(found) == len(set(found)) > 5
    lanes = 64 if arch == "gfx942" else 32
    assert all(16 <= each.block * itemsize / (each.num_warps * lanes) <= 64 for each in found)
    assert found == search.candidates(arch, key)


def test_programmatic_dependent_launch_is_tried_where_it_is_asked_for():
    key = ConfigKey("gates_forward", 2, 64)
    plain, both = search.candidates("sm_90", key), search.candidates("sm_90", key, launch_pdl=True)
    assert not any(each.launch_pdl for each in plain)
    assert both[::2] == plain and both[1::2] == [each._replace(launch_pdl=True) for each in plain]


@pytest.mark.parametrize(
    ("compiled", "words"),
    [
        (figures(spills=8), "8 spills"),
        (figures(accesses={"8": 2, "16": 20}), "accesses narrower than 16 bytes: {'8': 2}"),
        ("RuntimeError: no\nmore", "does not compile: RuntimeError: no"),
    ],
)
def test_a_candidate_with_faults_is_dropped_and_never_runs(compiled: Figures | str, words: str):
    ran = []
    tried = [(each, compiled if each == PLANTED else GOOD) for each in CANDIDATES]
    outcome = find(tried, bench(lambda each: 1.0 if each == PLANTED else 2.0, ran=ran))
    assert outcome.chosen == DEFAULT
    assert trial(outcome, PLANTED).rejected == words
    assert ran and PLANTED not in [each for each, _ in ran]
    assert find(tried, None).chosen != PLANTED


def test_narrow_accesses_are_no_fault_where_the_channels_allow_no_wider():
    narrow, odd = figures(accesses={"2": 136}), [replace(launch, channels=33) for launch in LAUNCHES]
    assert search.judge("sm_90", odd, PLANTED, narrow).rejected == ""
    assert search.judge("sm_90", LAUNCHES, PLANTED, narrow).rejected


def cost(candidate: Config = DEFAULT, launch: Launch = LAUNCHES[0], **changes: object) -> float:
    return search.static_cost("sm_90", launch, candidate, figures(**changes))


def test_static_cost_grows_with_accesses_idle_warps_and_an_empty_tail():
    assert cost(accesses={"16": 22}) > cost()
    assert cost(registers=200) > cost(registers=128) > cost(registers=64)
    assert cost(registers=32) == pytest.approx(cost(registers=64), rel=0.2), "more warps than enough win little"
    small = LAUNCHES[1]
    assert cost(Config(4096, 4), small, accesses={"16": 84}) > cost(Config(512, 4), small, accesses={"16": 10.5})
    assert cost(Config(4096, 8), shared=10**6) == float("inf")


def test_without_a_device_the_lowest_cost_is_chosen_and_no_speed_is_claimed():
    tried = [(each, figures(accesses={"16": 15}) if each == DEFAULT else GOOD) for each in CANDIDATES]
    outcome = find(tried, None)
    sound = [each for each in outcome.trials if not each.rejected]
    assert outcome.chosen == min(sound, key=lambda each: each.cost).choice
    assert outcome.speedup is None
    assert [each.cost for each in outcome.trials[1:]] == sorted(each.cost for each in outcome.trials[1:])
    assert {each.choice for each in outcome.trials} == set(CANDIDATES)
    assert outcome == find(tried, None)


def test_the_fastest_wins_by_its_medians():
    outcome = find(_cheap_first(PLANTED), bench(lambda each: 1.0 if each == PLANTED else 2.0))
    assert outcome.chosen == PLANTED
    assert outcome.default == DEFAULT
    assert outcome.speedup == pytest.approx(2.0)
    assert trial(outcome, PLANTED).times == dict.fromkeys(LAUNCHES, (1.0, 1e3, 1.0))


def test_the_default_stands_where_none_is_faster_by_the_margin():
    within = 1 / (1 + 0.5 * search.MARGIN)
    outcome = find(COMPILED, bench(lambda each: 1.0 if each == DEFAULT else within))
    assert outcome.chosen == DEFAULT
    assert outcome.speedup == 1.0
    beyond = 1 / (1 + 2 * search.MARGIN)
    outcome = find(COMPILED, bench(lambda each: 1.0 if each == DEFAULT else beyond))
    assert outcome.chosen != DEFAULT


def test_a_fast_candidate_with_wrong_results_is_rejected_and_not_timed():
    ran = []
    seconds = {PLANTED: 0.01, DEFAULT: 2.0}
    device = bench(lambda each: seconds.get(each, 1.9), wrong=[PLANTED], ran=ran)
    outcome = find(_cheap_first(PLANTED), device)
    assert trial(outcome, PLANTED).rejected == "wrong results: output: bf16 at 64"
    assert trial(outcome, PLANTED).times == {}
    assert PLANTED not in [each for each, _ in ran]
    assert outcome.chosen not in (PLANTED, DEFAULT)


def test_a_candidate_whose_check_does_not_run_is_rejected():
    def check(launch: Launch, choice: Config) -> str:
        if choice == PLANTED:
            raise RuntimeError("out of resources")
        return ""

    outcome = find(_cheap_first(PLANTED), replace(bench(lambda each: 1.0), check=check))
    assert trial(outcome, PLANTED).rejected == "does not run: out of resources"


@pytest.mark.parametrize("when", ["bound", "run"])
def test_a_candidate_that_fails_at_a_full_size_is_dropped_alone(when: str):
    device = bench(lambda each: 2.0 if each == DEFAULT else 1.0)

    def bind(launch: Launch, choice: Config) -> Callable[[], float]:
        def fail() -> float:
            raise RuntimeError("out of memory")

        if choice == PLANTED and launch.height == 16:
            return fail() if when == "bound" else fail
        return device.bind(launch, choice)

    outcome = find(_cheap_first(PLANTED), replace(device, bind=bind))
    assert trial(outcome, PLANTED).rejected == "does not run: out of memory"
    assert outcome.chosen not in (DEFAULT, PLANTED)
    assert outcome.speedup == pytest.approx(2.0)
    assert len({each.choice for each in outcome.trials}) == len(outcome.trials) == len(CANDIDATES)


def test_where_nothing_can_be_timed_the_default_stands():
    def timer(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        raise RuntimeError("out of memory")

    outcome = find(COMPILED, replace(bench(lambda each: 1.0), time=timer))
    assert (outcome.chosen, outcome.speedup) == (DEFAULT, None)
    assert outcome.trials[0].rejected == "not timed: out of memory"


def test_only_the_best_by_static_cost_are_timed_beside_the_default():
    ran = []
    outcome = find(COMPILED, bench(lambda each: 1.0, ran=ran))
    timed = {each for each, _ in ran}
    costs = sorted(each.cost for each in outcome.trials[1:])
    assert len(timed) == search.TIMED + 1
    assert DEFAULT in timed
    assert all(trial(outcome, each).cost <= costs[search.TIMED - 1] for each in timed - {DEFAULT})
    assert {launch.height for _, launch in ran} == {64, 16}, "at every size"


def test_a_winner_must_be_fast_at_all_sizes_together():
    def bind(launch: Launch, choice: Config) -> Callable[[], float]:
        large, small = {PLANTED: (0.5, 10.0), DEFAULT: (1.0, 1.0)}.get(choice, (1.1, 1.1))
        return lambda: large if launch.height == 64 else small

    assert find(_cheap_first(PLANTED), replace(bench(lambda each: 1.0), bind=bind)).chosen == DEFAULT


def test_a_default_with_faults_is_timed_all_the_same():
    tried = [(each, figures(spills=4) if each == DEFAULT else GOOD) for each in CANDIDATES]
    outcome = find(tried, bench(lambda each: 2.0 if each == DEFAULT else 1.0))
    assert outcome.trials[0].choice == DEFAULT
    assert outcome.trials[0].times == dict.fromkeys(LAUNCHES, (2.0, 2e3, 2.0))
    assert outcome.speedup == pytest.approx(2.0)


def _cheap_first(candidate: Config) -> list[tuple[Config, Figures]]:
    """Compiled candidates of which this one is the cheapest, so that it is among those that run."""
    return [(each, figures(accesses={"16": 1}) if each == candidate else GOOD) for each in CANDIDATES]


def test_a_case_of_ones_own():
    found = search.launches([Case(2, 3, 5, (7,), 3, 9, 11)], "fp32", ("gates_backward",))
    launch = Launch("gates_backward", "fp32", 7, "channel", 2, 9, 11)
    assert found == {ConfigKey("gates_backward", 4, 7): [launch]}
    assert launch.elements == 2 * 9 * 11 * 7


(LAYERS,) = search.layers([Case(1, 2, 2, (3,), 3, 4, 5)], "fp32").values()
SLOW, FAST = 1.0, 1 / (1 + 2 * search.MARGIN)


def layer_bench(inference: float, training: float, wrong: str = "") -> Bench:
    """A device on which "concat" takes a second, and "hoisted" what is said."""

    def bind(layer: Layer, schedule: str) -> Callable[[], float]:
        seconds = {"inference": inference, "training": training}[layer.mode] if schedule == "hoisted" else 1.0
        return lambda: seconds

    return Bench(bind, lambda layer, schedule: wrong, lambda runs: [[run(), 9.0, run()] for run in runs])


@pytest.mark.parametrize(
    ("inference", "training", "chosen"),
    [
        (FAST, FAST, "hoisted"),
        (FAST, SLOW, "concat"),  # by half the margin over both
        (0.5, 1.01, "hoisted"),
        (0.5, 1.1, "concat"),  # training would be slower by more than the margin
        (1.5, 1.5, "concat"),
        (1 / (1 + 0.5 * search.MARGIN), 1 / (1 + 0.5 * search.MARGIN), "concat"),
    ],
)
def test_hoisted_wins_by_more_than_the_margin_and_loses_nowhere(inference: float, training: float, chosen: str):
    outcome = search.choose_schedule(LAYERS, layer_bench(inference, training))
    assert outcome.chosen == chosen
    assert search.by_mode(outcome) == pytest.approx({"inference": 1 / inference, "training": 1 / training})


def test_a_schedule_with_wrong_results_is_never_chosen():
    outcome = search.choose_schedule(LAYERS, layer_bench(0.1, 0.1, wrong="output: error 1"))
    assert (outcome.chosen, outcome.trials[1].rejected) == ("concat", "wrong results: output: error 1")


@pytest.mark.parametrize(
    ("failing", "words"), [("bind", "does not run"), ("check", "does not run"), ("time", "not timed")]
)
def test_a_layer_that_cannot_be_timed_keeps_its_schedule(failing: str, words: str):
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    outcome = search.choose_schedule(LAYERS, replace(layer_bench(0.1, 0.1), **{failing: fail}))
    assert (outcome.chosen, outcome.trials[1].rejected) == ("concat", f"{words}: CUDA out of memory")
