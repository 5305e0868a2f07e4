"""A report by the command line."""

from tests.jobs.commands import train


def test_a_report_is_written_with_and_without_rows(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    page = tmp_path / "report.html"
    flags = "report", tmp_path / "m", "--output", page
    assert run_json(*flags, "--input", store)["output"] == str(page)
    assert "What the clusters are" in page.read_text()
    run_json(*flags)
    assert "What the clusters are" not in page.read_text()
    code, _, err = run(*flags, "--columns", "a")
    assert code == 2
    assert "--columns, --weights and --filter must come with --input" in err
    code, _, err = run("report", tmp_path / "none", "--output", page)
    assert code == 2
    assert "Could not find trained model" in err
