"""A job that is interrupted ends in the bytes of one that is not (all of it: `python -m storms.job_kills`)."""

import pytest
from faults import after_every_error, after_every_power_loss
from jobs_for_tests import job, records, tree, write_jsonl
from storms.job_kills import SYSTEMS, every_call, storm

from index.manifest import MANIFEST, is_index, read_manifest
from index.verification import find_damage


def test_a_job_killed_at_random_moments_ends_in_the_same_bytes():
    assert storm(3, seed=1, most=2, systems=SYSTEMS[-1:]).total() >= 3


def test_a_job_killed_at_every_so_many_calls_ends_in_the_same_bytes():
    assert every_call(step=307) > 6


def committed(folder):
    """The manifest and all that it names: what is removed after a commit, a disk may bring back, and the next writer removes it."""
    kept = {MANIFEST, *read_manifest(folder).parts}
    return {name: content for name, content in tree(folder).items() if name.split("/")[0] in kept}


@pytest.fixture
def disturbed(tmp_path):
    """(folder that is not there yet, a job of it, check of any state, check of the last state)."""
    source, folder = write_jsonl(tmp_path / "c.jsonl", records(5)), tmp_path / "i"
    job(source, folder, shard_documents=2)
    expected = committed(folder)

    def operate(copy):
        job(source, copy, shard_documents=2)

    def check(copy):
        if is_index(copy):
            assert find_damage(copy, "full") == []

    def finished(copy):
        check(copy)
        assert committed(copy) == expected

    return tmp_path / "nothing" / "i", operate, check, finished


def test_a_disk_that_fails_at_any_call_leaves_a_job_that_goes_on(disturbed, tmp_path):
    folder, operate, check, finished = disturbed
    assert after_every_error(folder, tmp_path / "s", operate, check, finished, errors=(28,), most_calls=5) == 10


def test_a_loss_of_power_leaves_a_job_that_goes_on(disturbed, tmp_path):
    folder, operate, check, finished = disturbed
    assert after_every_power_loss(folder, tmp_path / "s", operate, check, finished, 0, most_calls=3) > 8
