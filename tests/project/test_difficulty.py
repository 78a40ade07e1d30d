"""Strengths of tasks: what is in use is a candidate, and the rule takes what it says."""

import pytest
from difficulty import CANDIDATES, Measured, changed, chosen, unspoilt, variant  # recipes/

from copra_lab.tasks import TASKS, task_names


def strength(recipe):
    if recipe.shadow:
        return {"shadow": recipe.shadow}
    return dict((recipe.scene or recipe.nuisance).keywords)


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_strength_in_use_is_a_candidate(name):
    used = strength(TASKS[name])
    assert any(used | candidate == used for candidate in CANDIDATES[name])
    for candidate in CANDIDATES[name]:
        recipe = changed(TASKS[name], candidate)
        assert strength(recipe) == used | candidate
        assert recipe.entries is TASKS[name].entries


def test_every_task_that_has_a_strength_has_candidates():
    strong = {n for n in task_names() if (r := TASKS[n]).nuisance or r.shadow or r.scene}
    assert set(CANDIDATES) == strong
    assert unspoilt(TASKS["things-blur"]).nuisance is None


@pytest.mark.slow
def test_no_test_image_is_at_hand(monkeypatch):
    monkeypatch.setattr("difficulty.TASKS", tasks := dict(TASKS))
    monkeypatch.setattr("copra_lab.tasks.task.TASKS", tasks)
    monkeypatch.setattr("copra_lab.tasks.emoji.catalogue.TASKS", tasks)
    task = variant(TASKS["where"], "where, once more")
    tested = {e.source for e in TASKS["where"].entries() if e.part == "test"}
    assert task.test is task.val
    assert len(task.val) > 16 * 9
    assert not tested & {*task.train.sources, *task.val.sources}


def measured(zero_shot=0.2, probe=0.3, lora=0.8):
    return Measured({}, 0.2, zero_shot, probe, lora)


def test_a_near_task_takes_the_middle_between_chance_and_clean():
    found = [measured(zero_shot=z) for z in (0.7, 0.52, 0.4)]
    assert chosen(found, clean=0.8)[0] is found[1]


def test_a_structured_task_takes_the_hardest_that_can_be_learned_but_not_by_pixels():
    easy, good, hard = measured(probe=0.7), measured(), measured(lora=0.45)
    assert chosen([easy, good, hard], clean=None)[0] is good
    best, why = chosen([easy, hard], clean=None)
    assert best is hard
    assert why.startswith("NONE DOES")
