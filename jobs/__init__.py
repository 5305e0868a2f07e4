"""The `dkmeans` command and its jobs, installed as `dkmeans_jobs`.

`__main__` is the command; `command` parses the command line and runs one job. A job is a module
with a function `run`, which takes the parsed arguments and returns the result as a dictionary. The
other modules are what the jobs share: input, client, model directory, status, console and signals.
"""

# Exit code after Ctrl-C. It stands here for `__main__`, which must not import the jobs.
EXIT_INTERRUPTED = 130
# Signals that end a job; they stand here for the same reason. Systems other than Unix have the
# first two only.
ENDING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
