"""Trials in, findings out: figures, tables, one page, TensorBoard."""
