"""Settings of Sphinx, which builds the site: `make site`."""

import argparse

import dkmeans_jobs.parser

import dkmeans

project = "dkmeans"
author = "The dkmeans developers"
project_copyright = author
version = release = dkmeans.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxarg.ext",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
# Notebooks hold the outputs of a run (`make notebooks`).
nb_execution_mode = "off"
# In docstrings, as in Markdown, one pair of backticks marks code.
default_role = "code"
# The domain of sphinxarg lacks a method that MyST would call for ambiguous links.
suppress_warnings = ["myst.domains"]

myst_heading_anchors = 4

autodoc_member_order = "bysource"
# Types that would fill a line with what they stand for.
autodoc_type_aliases = {
    name: name for name in ("Addresses", "FloatArray", "InitialClusters", "InputFn", "NamedValues")
}
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "dkmeans"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"index": []}
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command, with help texts in reStructuredText for its page."""
    parser = dkmeans_jobs.parser.build_parser()
    escape_help(parser)
    return parser


def escape_help(parser: argparse.ArgumentParser) -> None:
    """Escape what reStructuredText would take for markup, in a parser and those below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                escape_help(below)
        elif action.help:
            action.help = action.help.replace("*", r"\*").replace("|", r"\|")
