"""Collapse is said, once, with numbers."""

from covt_rl.training.alarms import FLAT_STEPS, WAIT, Alarms

HEALTHY = {"reward": 0.5, "frac_reward_zero_std": 0.3, "entropy": 1.0, "latent/used": 0.9}


def said(steps: list[dict[str, float]]) -> list[list[str]]:
    alarms = Alarms()
    return [alarms.check(HEALTHY | step) for step in steps]


def test_a_healthy_run_is_left_alone():
    assert said([{}] * 20) == [[]] * 20


def test_flat_groups_are_reported_once_with_a_remedy():
    notes = said([{"frac_reward_zero_std": 1.0}] * (FLAT_STEPS + 3))
    assert [bool(note) for note in notes] == [n == FLAT_STEPS - 1 for n in range(FLAT_STEPS + 3)]
    assert "rollout.dynamic" in notes[FLAT_STEPS - 1][0]


def test_lost_entropy_and_unused_latents_are_reported():
    assert "entropy has fallen from 1 to 0.05" in said([{}] + [{"entropy": 0.05}] * WAIT)[-1][0]
    assert "latent/used has fallen" in said([{}] + [{"latent/used": 0.01}] * WAIT)[-1][0]


def test_a_single_bad_step_is_no_alarm():
    assert not any(said([{}, {"entropy": 0.01}, {}, {"latent/used": 0.0}, {}]))
