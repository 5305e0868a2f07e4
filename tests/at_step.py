"""Calls a function while a fit runs, when a certain step is reported."""

import logging
from contextlib import contextmanager


class _CallAtStep(logging.Handler):
    """Calls a function once, when a step is reported."""

    def __init__(self, step, call):
        super().__init__(logging.DEBUG)
        self.step, self.call = step, call

    def emit(self, record):
        progress = getattr(record, "progress", None)
        if self.call and progress and progress.step == self.step:
            call, self.call = self.call, None
            call()


@contextmanager
def at_step(step, call):
    """Call a function once in the body of the `with` statement, when this step is reported."""
    logger, handler = logging.getLogger("dkmeans"), _CallAtStep(step, call)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
