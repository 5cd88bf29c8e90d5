"""Who passes a rung: cases one can work out by hand."""

import math
import pickle

import pytest

from nas.search.records import Report, TrialRecord
from nas.search.rungs import Rungs


def _rungs(**changes) -> Rungs:
    return Rungs(**({"first_epoch": 2, "reduction": 2, "last_epoch": 9} | changes))


def test_levels_grow_by_the_reduction_and_stop_before_the_last_epoch():
    assert _rungs().levels == (2, 4, 8)
    assert _rungs(last_epoch=8).levels == (2, 4)
    assert _rungs(reduction=3, last_epoch=20).levels == (2, 6, 18)
    assert _rungs(reduction=0).levels == ()


def test_the_better_half_goes_on():
    rungs = _rungs()
    assert rungs.goes_on("a", epoch=2, score=0.5)  # the first at a rung has no rival
    assert not rungs.goes_on("b", epoch=2, score=0.4)
    assert rungs.goes_on("c", epoch=2, score=0.6)
    assert rungs.goes_on("d", epoch=3, score=-1.0)  # no rung after epoch 3
    assert rungs.goes_on("e", epoch=4, score=0.1)  # nobody was at this rung before


def test_nan_never_goes_on_and_never_raises_the_bar():
    rungs = _rungs()
    assert not rungs.goes_on("nan", epoch=2, score=math.nan)
    assert not rungs.goes_on("inf", epoch=2, score=math.inf)
    assert rungs.goes_on("a", epoch=2, score=0.1)


def test_a_resumed_search_stops_by_the_same_bar():
    reports = tuple(Report(epoch=epoch, metrics={"loss": 0.2}) for epoch in (1, 2, 3))
    trial = TrialRecord(
        stage="s", trial="s-0", number=0, point={}, network="n", network_name="n", seed=1, reports=reports
    )
    resumed = _rungs()
    resumed.replay([trial], metric="loss", sign=-1.0)
    assert not resumed.goes_on("b", epoch=2, score=-0.3)
    assert resumed.goes_on("c", epoch=2, score=-0.1)
    assert pickle.loads(pickle.dumps(resumed)).levels == resumed.levels


@pytest.mark.parametrize(
    ("change", "words"), [({"reduction": 1}, "reduction"), ({"first_epoch": 0}, "first_epoch")]
)
def test_impossible_rungs_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        _rungs(**change)
