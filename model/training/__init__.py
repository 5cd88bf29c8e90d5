"""The loop that trains everything, and what it is made of."""
