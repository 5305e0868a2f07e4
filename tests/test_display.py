"""Progress for people: a live line in a terminal or a notebook, lines of text elsewhere."""

import io
import logging
import threading

import numpy as np
import pytest
from rich.console import Console

from dkmeans import KMeans, RunConfig
from dkmeans.display import (
    LiveHandler,
    TextHandler,
    attached,
    curve,
    live_on_terminal,
    printable,
    shown,
    with_time_left,
)
from dkmeans.report import Progress, RowProgress, report_progress
from tests.programs import output_of

library = logging.getLogger("dkmeans")
ROWS = np.array([[0, 0], [0, 1], [8, 8], [8, 9]], np.float32)


def trained(**more):
    config = RunConfig(progress="auto", **more)
    return KMeans(2, seed=1, use_mini_batch=False, config=config).train(lambda: ROWS, steps=3)


def report(step, loss=1.0):
    report_progress(Progress(step, 3, loss, None, 0, 1, 100, 0.5), notable=True)


@pytest.fixture
def terminal():
    """A console on a terminal, whose output is in its `file`."""
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


# What a call shows.


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_call_shows_its_parts_its_progress_and_its_end(is_terminal, capsys, monkeypatch):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    trained().evaluate(lambda: ROWS)
    shown_text = capsys.readouterr().err
    for text in ("2 clusters, on", "finding the first centers", "step 1 of 3, loss", "at step "):
        assert text in shown_text
    assert "evaluated 4 of 4 rows (100%)" in shown_text
    assert ("\x1b[2K" in shown_text) == is_terminal


def test_nothing_is_shown_without_the_setting(capsys):
    KMeans(2, seed=1, use_mini_batch=False).train(lambda: ROWS, steps=3)
    assert capsys.readouterr() == ("", "")


def test_a_cell_of_a_notebook_shows_one_text_that_changes():
    program = """
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

class ZMQInteractiveShell(InteractiveShell):
    "The shell of Jupyter, by whose name it is known."

cell = '''
import numpy, dkmeans
config = dkmeans.RunConfig(progress="auto")
model = dkmeans.KMeans(2, seed=1, use_mini_batch=False, config=config)
model.train(lambda: numpy.eye(4), steps=3)
'''
shell = ZMQInteractiveShell.instance()
with capture_output() as captured:
    shell.run_cell(cell).raise_error()
texts = [each.data["text/plain"] for each in captured.outputs if "text/html" in each.data]
print(len(texts) > 3, captured.stderr == "")
print(texts[-1])
"""
    first, *lines = output_of(program).strip().split("\n")
    assert first == "True True"
    assert lines[0].startswith("4 rows of 4 columns, float64")
    assert lines[-2].startswith("step 2 of 3, loss 2, change ")
    assert lines[-1] == "converged: no center moves any more at step 2"


def test_a_call_that_overlaps_another_one_is_shown_with_it(capsys):
    with shown():
        other = threading.Thread(target=trained)
        other.start()
        other.join()
    lines = capsys.readouterr().err.splitlines()
    assert sum("finding the first centers" in line for line in lines) == 1


def test_the_handlers_of_the_user_get_what_they_get_without_a_display(caplog, capsys):
    for level, expected in ((logging.INFO, True), (logging.WARNING, False)):
        caplog.clear()
        with caplog.at_level(level, "dkmeans"):
            trained()
        assert ("finding the first centers" in caplog.messages) == expected
        assert not [record for record in caplog.records if record.levelno < level]
    assert (library.propagate, library.handlers) == (True, [])


def test_a_handler_of_the_user_on_the_logger_of_the_library_gets_no_more_than_before():
    class Noting(logging.Handler):
        def __init__(self):
            super().__init__()
            self.texts = []

        def emit(self, record):
            self.texts.append(record.getMessage())

    own = Noting()
    library.addHandler(own)
    try:
        with TextHandler() as handler, attached(handler):
            library.debug("an iteration")
            library.warning("a remark")
        library.warning("after the call")
    finally:
        library.removeHandler(own)
    assert own.texts == ["a remark", "after the call"]


def test_names_cannot_break_a_line_or_move_the_cursor(capsys):
    with TextHandler() as handler, attached(handler):
        library.info("columns %s", "a\n2026-01-01 forged\x1b[31m, größe")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"columns a\n2026-01-01 forged\x1b[31m, größe")
    assert printable("\u2028\u202e\ud800\x85") == r"\u2028\u202e\ud800\x85"


@pytest.mark.parametrize("name", ["東京\u3000駅", "می\u200cروم", "👩\u200d🚀", "10\u00a0km"])
def test_characters_of_words_stay_as_they_are(name):
    assert printable(name) == name


def test_a_display_that_fails_ends_no_call():
    class Closed:
        def add(self, text):
            raise OSError("the terminal is closed")

        update = add

    with LiveHandler(Closed(), with_curve=True) as handler, attached(handler):
        report(1)
        assert handler not in library.handlers
        library.info("going on")


def test_lines_of_text_that_cannot_be_written_end_no_call(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    with TextHandler() as handler, attached(handler):
        library.info("going on")
        report(1)


def test_a_call_goes_on_where_another_live_display_has_the_terminal(terminal):
    with live_on_terminal(terminal), live_on_terminal(terminal) as inner, attached(inner):
        report(1)


# The live line.


def test_the_last_progress_stays_above_a_message(terminal):
    with live_on_terminal(terminal) as handler, attached(handler):
        report(1)
        report(2, 0.5)
        library.warning("[bold] is no markup")
    lines = terminal.file.getvalue().split("\n")
    place = next(i for i, line in enumerate(lines) if "WARNING [bold] is no markup" in line)
    assert lines[place - 1].endswith("step 2 of 3, loss 0.5, 200 rows/s")


def test_a_live_line_has_a_curve_of_the_losses(terminal):
    with live_on_terminal(terminal) as handler, attached(handler):
        report(1)
    assert "rows/s, at most 0:01 min left  ▁" in terminal.file.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([8, 4.5, 1], "█▅▁"), ([3], "▁"), ([2, 2], "▁▁"), ([0, 7e-300], "▁█")],
)
def test_a_curve_has_the_heights_of_its_values(values, expected):
    assert curve(values) == expected


@pytest.mark.parametrize(
    ("step", "last_step", "text"),
    [
        (1, None, ""),
        (3, 3, ""),
        (1, 3, ", at most 0:04 min left"),
        (1, 46, ", at most 1:30 min left"),
        (1, 2701, ", at most 1:30 h left"),
    ],
)
def test_a_live_line_ends_with_the_longest_time_left(step, last_step, text):
    shown = with_time_left(Progress(step, last_step, 1.0, None, 0, 1, 100, 2.0))
    assert shown.endswith(f"50 rows/s{text}")


def test_the_time_left_for_rows_is_about_that_of_the_rows_before():
    half = RowProgress("evaluated", 500, 1000, 500, 60.0)
    assert with_time_left(half).endswith(", 8 rows/s, about 1:00 min left")


# Lines of text.


@pytest.mark.parametrize("notable", [False, True])
def test_lines_of_text_have_all_messages_and_progress_now_and_then(capsys, notable):
    with TextHandler() as handler, attached(handler):
        library.debug("nothing to see")
        library.info("going on")
        for step in range(1, 9):
            report_progress(Progress(step, None, 1.0, None, 0, 1, 100, 0.5), notable=notable)
            if step == 5:
                library.info("half of it")
    lines = [line[20:].partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["going on", "step 1", "step 5", "half of it", "step 8"]


def test_progress_that_was_written_is_not_written_again(capsys):
    with TextHandler() as handler, attached(handler):
        report(1)
        library.info("the end")
    assert [line[20:26] for line in capsys.readouterr().err.splitlines()] == ["step 1", "the en"]
