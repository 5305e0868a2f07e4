"""The batch jobs and the `dkmeans` command."""
