"""The kinds of run there are, one a file: each has `run(experiment, folder, *, resume)` and `plan(experiment)`."""
