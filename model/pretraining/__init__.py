"""Pretraining objectives, one a file; `_objective.py` is the contract, `_joint.py` runs them together."""
