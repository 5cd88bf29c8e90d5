"""The line that a person watches."""

import io
from collections import Counter

from nas.objectives.task_metric import TaskMetric
from nas.search.progress import Progress


def _progress(**fields) -> Progress:
    return Progress("stage 1/3", 4, TaskMetric(), 2, stream=io.StringIO(), **fields)


def test_counts_best_and_failures():
    progress = _progress()
    progress.already(Counter(done=1))
    progress.start("b")
    progress.start("c")
    assert "1/4 trials (1 done, 0 stopped, 0 failed, 2 running)" in progress.line()
    progress.end("b", "failed", "RuntimeError: out of memory")
    progress.note(0.5, "t1-v1 · concat")
    progress.note(0.4, "worse")
    progress.end("c", "stopped")
    assert "3/4 trials (1 done, 1 stopped, 1 failed, 0 running)" in progress.line()
    assert "best accuracy 0.500 (t1-v1 · concat)" in progress.line()
    assert "left" in progress.line()
    assert "b failed: RuntimeError: out of memory" in progress.stream.getvalue()


def test_a_log_is_not_flooded():
    progress = _progress()
    for _ in range(50):
        progress.tick()
    assert progress.stream.getvalue().count("\n") == 1


def test_time_left_waits_for_a_first_round_of_trials():
    progress = _progress()
    progress.end("a", "done")
    assert "left" not in progress.line()
