"""How alike two streams see the same rows: one measure a file, found by its file name.

from model.alignment import load_measure, measure_layers, measure_names
"""

from model.alignment._measure import Features, Measure
from model.alignment._suite import load_measure, measure_layers, measure_names

__all__ = ["Features", "Measure", "load_measure", "measure_layers", "measure_names"]
