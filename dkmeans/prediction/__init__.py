"""Prediction: what the centers of a checkpoint say about rows.

* `per_chunk` has the functions of one chunk, which run on workers.
* `stream` brings their results to the driver, batch by batch, while hooks are notified.
* `lazy` gives them as collections of Dask, which somebody else computes.
* `output` writes them to storage from the workers, region by region, to one of the `destinations`.
* `request` names what is written.
* `identity` tells whether an output that was begun is of the same prediction, so that a second run
  writes only what is missing.
"""
