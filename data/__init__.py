"""Bytes on disk -> batches. Imports nothing else of crosstie."""
