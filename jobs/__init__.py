"""The `dkmeans` command and its jobs, installed as `dkmeans_jobs`.

`__main__` parses the command line and runs one job. A job is a module with a function `run`, which
takes the parsed arguments and returns the result as a dictionary. The other modules are what the
jobs share: input, client, model directory, status, console and signals.
"""
