"""TensorFlow's SavedModel, written without TensorFlow (docs/decisions/010).

`files` returns the files of an export and is all that `dkmeans.model` calls. `graph` builds the
computation, `variables` the bytes of the centers, and `protobuf` has the protocol messages.
"""
