"""Where work runs: one function that starts or joins Ray, and the files that describe clusters."""
