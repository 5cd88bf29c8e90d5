"""What a search pushes, one objective a file; `_objective.py` is the contract."""

from nas.objectives._objective import Objective as Objective
from nas.objectives._objective import Outcome as Outcome
from nas.objectives._words import words as words
