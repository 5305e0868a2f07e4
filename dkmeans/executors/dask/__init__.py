"""The Dask executor: a driver, its view of the cluster, and what runs on the workers.

* `driver` has the executor: it deals runs to workers, as tasks or as calls, and collects totals.
* `client_checks` refuses clients that cannot run tasks. `cluster` waits for results while workers
  come and go, and translates Dask's errors; `frozen_workers` leaves out workers without heartbeats,
  and `adapting` keeps a cluster that adapts its size from closing workers.
* `dealing` and `share_sizes` decide which worker computes what. `shipping` sends rows of the
  driver, and `packets` are the pieces of large values.
* `remote` has the functions that run on workers, `shares` what a worker remembers between them,
  `process` how a worker's process is set up.
* `internals` is the only module that touches what Dask does not document.
"""
