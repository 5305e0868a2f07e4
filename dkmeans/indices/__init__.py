"""Indices of a clustering: how good its clusters are, and how far it agrees with another one.

`moments_of` and `contingency_of` run on the workers and return monoids of O(k d) memory, so that
one pass over any number of rows is enough. `quality` and the contingency table turn them into
indices on the driver (docs/decisions/024). `prediction.measures` calls both in one pass.
"""
