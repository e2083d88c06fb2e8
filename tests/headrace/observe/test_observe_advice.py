from __future__ import annotations

import math

import pytest

from headrace.observe.advice import feeding, feeding_advice


def steps(*, clips=16.0, seconds=0.4, wait=0.1, cost=0.05, actors=2, count=20):
    return [
        {
            "kind": "step",
            "time": i * seconds,
            "step": i + 1,
            "steps": count,
            "clips_per_second": clips / seconds,
            "step_seconds": seconds,
            "wait_seconds": wait,
            "decode_cpu_seconds_per_clip": cost,
            "decode_actors": actors,
        }
        for i in range(count)
    ]


def test_the_balance_is_the_documented_arithmetic():
    balance = feeding(steps(clips=12, seconds=1.0, wait=0.6, cost=0.16, actors=2))
    assert balance.given == pytest.approx(12)
    assert balance.demand == pytest.approx(12 / 0.4)  # C / (T - W)
    assert balance.supply == pytest.approx(2 / 0.16)
    assert balance.wait_share == pytest.approx(0.6)
    assert balance.decoders_needed == math.ceil(30 * 0.16) == 5


def test_too_few_decoders():
    advice = feeding_advice(steps(clips=12, seconds=1.0, wait=0.613, cost=0.16, actors=2), cores=8)
    assert advice.limit == "decoders"
    assert advice.sentence == "decoding gives 12 clips/s, training could take 31: raise --data.decoders from 2 to 5"


def test_too_few_cores():
    advice = feeding_advice(steps(clips=12, seconds=1.0, wait=0.6, cost=0.16, actors=2), cores=4)
    assert advice.limit == "cores"
    assert "from 2 to 4, then add CPU machines" in advice.remedy
    advice = feeding_advice(steps(clips=12, seconds=1.0, wait=0.6, cost=0.16, actors=4), cores=4)
    assert advice.limit == "cores"
    assert "--data.decoders" not in advice.remedy


def test_decoders_enough_but_clips_come_late():
    advice = feeding_advice(steps(clips=12, seconds=1.0, wait=0.6, cost=0.01, actors=2), cores=8)
    assert advice.limit == "delivery"
    assert "--data.decoders" not in advice.sentence


def test_trainers_are_the_limit():
    advice = feeding_advice(steps(clips=10, seconds=1.0, wait=0.0, cost=0.05, actors=1))
    assert advice.limit == "trainers"
    assert advice.sentence == "the trainers are the limit; decoding keeps up with 100 % to spare"
    assert "1 decoder would do" not in advice.reasoning
    spare = feeding_advice(steps(clips=10, seconds=1.0, wait=0.0, cost=0.05, actors=4))
    assert "1 decoder would do" in spare.reasoning


def test_no_spare_is_claimed_that_the_bound_does_not_show():
    advice = feeding_advice(steps(clips=30, seconds=1.0, wait=0.0, cost=0.05, actors=1))
    assert advice.sentence == "the trainers are the limit; decoding keeps up"


def test_supply_is_bounded_by_the_cores():
    assert feeding(steps(cost=0.1, actors=8), cores=2).supply == pytest.approx(20)


def test_a_whole_load_is_not_rounded_up():
    # 30 clips/s at 0.1 s are exactly three decoders, whatever binary fractions say.
    assert feeding(steps(clips=12, seconds=1.0, wait=0.6, cost=0.1)).decoders_needed == 3


def test_the_pool_is_the_most_actors_that_any_record_saw():
    window = steps(actors=1)
    window[3]["decode_actors"] = 4
    assert feeding(window).decoders == 4


@pytest.mark.parametrize(
    "window",
    [
        [],
        steps(count=1),
        steps(cost=math.nan),
        steps(cost=0.0, actors=0),
        steps(seconds=1.0, wait=1.0),
        steps(seconds=1.0, wait=1.5),
        steps(wait=math.nan),
        [{"kind": "step", "time": 0, "step": 1, "steps": 1, "step_seconds": None}],
    ],
)
@pytest.mark.parametrize("cores", [None, 2])
def test_advice_is_given_on_whatever_is_known(window, cores):
    advice = feeding_advice(window, cores)
    assert advice.sentence
    assert "nan" not in advice.sentence.lower() + advice.reasoning.lower()
    assert "not a number" not in advice.sentence + advice.reasoning


def test_more_decoders_are_never_advised_down():
    for wait in (0.03, 0.1, 0.5, 0.9):
        for cost in (0.001, 0.02, 0.3, 4.0):
            for actors in (1, 2, 7):
                for cores in (None, 1, 4, 64):
                    advice = feeding_advice(steps(wait=0.4 * wait, cost=cost, actors=actors), cores)
                    if "raise" in advice.remedy:
                        words = advice.remedy.replace(",", "").split()
                        at = words.index("from")
                        assert int(words[at + 3]) > int(words[at + 1]) == actors
