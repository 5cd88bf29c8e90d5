"""What to try, what it was worth, and what we learnt."""
