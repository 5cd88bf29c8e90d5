"""Networks, tasks, measures, and the loop that trains them."""
