"""Downstream tasks, one a file; `_task.py` is the contract."""
