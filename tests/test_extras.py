"""Extras: the error that names the package and the extra to install."""

import sys

import pytest
from dkmeans_jobs.__main__ import main

from dkmeans import Invalid
from dkmeans.extras import needs
from tests.exports.example_models import trained


def test_a_missing_package_is_named_with_its_extra():
    text = r"a test needs the package no_such_package: pip install 'dkmeans\[tests\]'"
    with pytest.raises(Invalid, match=text), needs("a test", "tests"):
        import no_such_package  # noqa: F401, PLC0415


def test_other_errors_of_an_import_are_left_alone():
    with pytest.raises(ImportError, match="damaged"), needs("a test", "tests"):
        raise ImportError("damaged")


def test_the_command_names_the_extra_that_a_format_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "dkmeans.exports.onnx_model", raising=False)
    monkeypatch.delattr("dkmeans.exports.onnx_model", raising=False)
    model = trained(tmp_path / "m")
    command = ["export", "--model-dir", model.model_dir, "--format", "onnx"]
    assert main([*command, "--output", str(tmp_path / "m.onnx")]) == 2
    assert (
        "an ONNX file needs the package onnx: pip install 'dkmeans[onnx]'"
        in capsys.readouterr().err
    )
