"""A short version of benchmarks/kill_resume.py."""

import random

import pytest

from benchmarks.kill_resume import kill_and_resume


@pytest.mark.slow
def test_training_that_is_killed_twice_ends_in_the_weights_of_an_undisturbed_one(tmp_path):
    """At a random moment, and while a checkpoint is being written."""
    result = kill_and_resume("classification", tmp_path, num_kills=2, rng=random.Random(0))
    assert result["num_resumed"] == 2
    assert result["most_lost"] <= result["interval"]
    assert result["is_identical"], result["differences"]
