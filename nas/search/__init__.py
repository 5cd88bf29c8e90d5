"""A stage of the search: what is tried, judged, recorded and resumed."""
