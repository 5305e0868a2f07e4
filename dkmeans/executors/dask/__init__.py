"""The Dask executor: a driver, its view of the cluster, and what runs on the workers.

* `driver` has the executor: it deals runs to workers, as tasks or as calls, and collects totals.
* `cluster` waits for results while workers come and go, and translates Dask's errors.
* `dealing` and `weights` decide which worker computes what; `shipping` sends rows of the driver.
* `worker` has the functions that run on workers, `shares` what a worker remembers between them,
  `process` how a worker's process is set up.
* `internals` is the only module that touches what Dask does not document.
"""
