"""Indices of a clustering: how good its clusters are, and how far it agrees with another one.

`moments_of` (O(k d) numbers), `contingency_of` (one number for each pair of clusters that occurs)
and `sample_of` (4,096 rows) run on the workers, in one pass of `prediction.measures`. They return
monoids, which `quality`, `agreement` and `silhouette` turn into indices on the driver
(docs/decisions/024).
"""
