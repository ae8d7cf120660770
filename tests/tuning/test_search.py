"""The search: what is tried, what is dropped, what is ranked first, and what wins, with times that are made up."""

from collections.abc import Callable, Sequence

import pytest

from tritonlstm.launch import Config, config
from tritonlstm.tuning import search
from tritonlstm.tuning.cases import CASES, Case
from tritonlstm.tuning.inspect import Figures
from tritonlstm.tuning.launches import Launch
from tritonlstm.tuning.search import Bench, Point, Size

SIZES = (Size(8, 64, 64), Size(1, 16, 16))
POINT = Point("gates_forward", "bf16", 64, SIZES)
DEFAULT = Config(1024, 4)
GOOD = Figures(registers=64, spills=0, shared=0, accesses={"16": 21}, instructions=1000, warps=32)
CANDIDATES = search.candidates("sm_90", POINT)
COMPILED = [(candidate, GOOD) for candidate in CANDIDATES]
PLANTED = Config(512, 2)


def figures(**changes: object) -> Figures:
    return Figures(**GOOD.as_json() | changes)


def bench(seconds: Callable[[Config], float], wrong: Sequence[Config] = (), ran: list | None = None) -> Bench:
    """A device on which a launch with a configuration takes `seconds`, and computes rubbish with those in `wrong`."""

    def current() -> Config:
        return config.pick_config("gates_forward", "sm_90", 2, 64)

    def bind(launch: Launch) -> Callable[[], float]:
        bound = current()

        def run() -> float:
            assert current() == bound, "the configuration at the launch is not the one that was bound"
            if ran is not None:
                ran.append((bound, launch))
            return seconds(bound)

        return run

    return Bench(
        bind=bind,
        check=lambda dtype, channels: f"output: {dtype} at {channels}" if current() in wrong else "",
        time=lambda runs: [[run(), 1e3 * run(), run()] for run in runs],  # one run in three is disturbed
    )


def trial(outcome: search.Outcome, candidate: Config) -> search.Trial:
    (found,) = [each for each in outcome.trials if each.config == candidate]
    return found


def test_points_are_kernels_and_channels_with_all_their_sizes():
    cases = [CASES["paper"], CASES["nowcast"]]
    points = search.points(cases, "bf16", ("gates_forward", "parameter_grads"))
    assert [(point.kernel, point.channels) for point in points] == [
        ("gates_forward", 128),
        ("gates_forward", 64),
        ("parameter_grads", 128),
        ("parameter_grads", 64),
    ]
    assert points[1].sizes == (Size(16, 16, 16), Size(8, 128, 128))
    assert points[0].sizes == (Size(16, 16, 16),)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["gates_forward", "gates_backward", "parameter_grads"])
def test_candidates(arch: str, dtype: str, kernel: str):
    point = Point(kernel, dtype, 64, SIZES)
    found = search.candidates(arch, point)
    assert found[0] == config.find_config(kernel, arch, point.itemsize, 64, user=False)[0].value
    assert len(found) == len(set(found)) > 5
    lanes = 64 if arch == "gfx942" else 32
    assert all(16 <= each.block * point.itemsize / (each.num_warps * lanes) <= 64 for each in found)
    assert found == search.candidates(arch, point)


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
    outcome = search.search("sm_90", POINT, tried, bench(lambda each: 1.0 if each == PLANTED else 2.0, ran=ran))
    assert outcome.chosen == DEFAULT
    assert trial(outcome, PLANTED).rejected == words
    assert ran and PLANTED not in [each for each, _ in ran]
    assert search.search("sm_90", POINT, tried, None).chosen != PLANTED


def test_narrow_accesses_are_no_fault_where_the_channels_allow_no_wider():
    odd = Point("gates_forward", "bf16", 33, SIZES)
    assert search.judge("sm_90", odd, PLANTED, figures(accesses={"2": 136})).rejected == ""
    assert search.judge("sm_90", POINT, PLANTED, figures(accesses={"2": 136})).rejected


def cost(candidate: Config = DEFAULT, size: Size = SIZES[0], **changes: object) -> float:
    launch = Launch("gates_forward", "bf16", 64, "channel", *size)
    return search.static_cost("sm_90", launch, candidate, figures(**changes))


def test_static_cost_grows_with_accesses_idle_warps_and_an_empty_tail():
    assert cost(accesses={"16": 22}) > cost()
    assert cost(registers=200) > cost(registers=128) > cost(registers=64)
    assert cost(registers=32) == pytest.approx(cost(registers=64), rel=0.2), "more warps than enough win little"
    small = Size(1, 16, 16)
    assert cost(Config(4096, 4), small, accesses={"16": 84}) > cost(Config(512, 4), small, accesses={"16": 10.5})
    assert cost(Config(4096, 8), shared=10**6) == float("inf")


def test_without_a_device_the_lowest_cost_is_chosen_and_no_speed_is_claimed():
    tried = [(each, figures(accesses={"16": 15}) if each == DEFAULT else GOOD) for each in CANDIDATES]
    outcome = search.search("sm_90", POINT, tried, None)
    sound = [each for each in outcome.trials if not each.rejected]
    assert outcome.chosen == min(sound, key=lambda each: each.cost).config
    assert outcome.speedup is None
    assert [each.cost for each in outcome.trials[1:]] == sorted(each.cost for each in outcome.trials[1:])
    assert {each.config for each in outcome.trials} == set(CANDIDATES)
    assert outcome == search.search("sm_90", POINT, tried, None)


def test_the_fastest_wins_by_its_medians():
    outcome = search.search("sm_90", POINT, _cheap_first(PLANTED), bench(lambda each: 1.0 if each == PLANTED else 2.0))
    assert outcome.chosen == PLANTED
    assert outcome.default == DEFAULT
    assert outcome.speedup == pytest.approx(2.0)
    assert trial(outcome, PLANTED).medians == (1.0, 1.0)


def test_the_default_stands_where_none_is_faster_by_the_margin():
    within = 1 / (1 + 0.5 * search.MARGIN)
    outcome = search.search("sm_90", POINT, COMPILED, bench(lambda each: 1.0 if each == DEFAULT else within))
    assert outcome.chosen == DEFAULT
    assert outcome.speedup == 1.0
    beyond = 1 / (1 + 2 * search.MARGIN)
    outcome = search.search("sm_90", POINT, COMPILED, bench(lambda each: 1.0 if each == DEFAULT else beyond))
    assert outcome.chosen != DEFAULT


def test_a_fast_candidate_with_wrong_results_is_rejected_and_not_timed():
    ran = []
    seconds = {PLANTED: 0.01, DEFAULT: 2.0}
    device = bench(lambda each: seconds.get(each, 1.9), wrong=[PLANTED], ran=ran)
    outcome = search.search("sm_90", POINT, _cheap_first(PLANTED), device)
    assert trial(outcome, PLANTED).rejected == "wrong results: output: bf16 at 64"
    assert trial(outcome, PLANTED).times == ()
    assert PLANTED not in [each for each, _ in ran]
    assert outcome.chosen not in (PLANTED, DEFAULT)


def test_a_candidate_that_does_not_run_is_rejected():
    def check(dtype: str, channels: int) -> str:
        if config.pick_config("gates_forward", "sm_90", 2, 64) == PLANTED:
            raise RuntimeError("out of resources")
        return ""

    device = bench(lambda each: 1.0)
    device = Bench(device.bind, check, device.time)
    outcome = search.search("sm_90", POINT, _cheap_first(PLANTED), device)
    assert trial(outcome, PLANTED).rejected == "does not run: out of resources"


@pytest.mark.parametrize("when", ["bound", "run"])
def test_a_candidate_that_fails_at_a_full_size_is_dropped_alone(when: str):
    device = bench(lambda each: 2.0 if each == DEFAULT else 1.0)

    def bind(launch: Launch) -> Callable[[], float]:
        run = device.bind(launch)
        guilty = config.pick_config("gates_forward", "sm_90", 2, 64) == PLANTED and launch.height == 16

        def fail() -> float:
            raise RuntimeError("out of memory")

        return (fail() if when == "bound" else fail) if guilty else run

    outcome = search.search("sm_90", POINT, _cheap_first(PLANTED), Bench(bind, device.check, device.time))
    assert trial(outcome, PLANTED).rejected == "does not run: out of memory"
    assert outcome.chosen not in (DEFAULT, PLANTED)
    assert outcome.speedup == pytest.approx(2.0)
    assert len({each.config for each in outcome.trials}) == len(outcome.trials) == len(CANDIDATES)


def test_where_nothing_can_be_timed_the_default_stands():
    def timer(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        raise RuntimeError("out of memory")

    device = bench(lambda each: 1.0)
    outcome = search.search("sm_90", POINT, COMPILED, Bench(device.bind, device.check, timer))
    assert (outcome.chosen, outcome.speedup) == (DEFAULT, None)
    assert outcome.trials[0].rejected == "not timed: out of memory"


def test_only_the_best_by_static_cost_are_timed_beside_the_default():
    ran = []
    outcome = search.search("sm_90", POINT, COMPILED, bench(lambda each: 1.0, ran=ran))
    timed = {each for each, _ in ran}
    costs = sorted(each.cost for each in outcome.trials[1:])
    assert len(timed) == search.TIMED + 1
    assert DEFAULT in timed
    assert all(trial(outcome, each).cost <= costs[search.TIMED - 1] for each in timed - {DEFAULT})
    assert {launch.height for _, launch in ran} == {64, 16}, "at every size"


def test_a_winner_must_be_fast_at_all_sizes_together():
    def timer(runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        return [[run()] for run in runs]

    def bind(launch: Launch) -> Callable[[], float]:
        current = config.pick_config("gates_forward", "sm_90", 2, 64)
        large, small = {PLANTED: (0.5, 10.0), DEFAULT: (1.0, 1.0)}.get(current, (1.1, 1.1))
        return lambda: large if launch.height == 64 else small

    outcome = search.search("sm_90", POINT, _cheap_first(PLANTED), Bench(bind, lambda *_: "", timer))
    assert outcome.chosen == DEFAULT


def test_a_default_with_faults_is_timed_all_the_same():
    tried = [(each, figures(spills=4) if each == DEFAULT else GOOD) for each in CANDIDATES]
    outcome = search.search("sm_90", POINT, tried, bench(lambda each: 2.0 if each == DEFAULT else 1.0))
    assert outcome.trials[0].config == DEFAULT
    assert outcome.trials[0].medians == (2.0, 2.0)
    assert outcome.speedup == pytest.approx(2.0)


def _cheap_first(candidate: Config) -> list[tuple[Config, Figures]]:
    """Compiled candidates of which this one is the cheapest, so that it is among those that run."""
    return [(each, figures(accesses={"16": 1}) if each == candidate else GOOD) for each in CANDIDATES]


def test_a_case_of_ones_own():
    case = Case(2, 3, 5, (7,), 3, 9, 11)
    (point,) = search.points([case], "fp32", ("gates_backward",))
    assert point.launch(point.sizes[0]) == Launch("gates_backward", "fp32", 7, "channel", 2, 9, 11)
    assert point.launch(point.sizes[0]).elements == 2 * 9 * 11 * 7
