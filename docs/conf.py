"""Sphinx settings: Markdown pages, and reference pages made from the docstrings."""

import cypar

project = "cypar"
author = "The cypar developers"
version = release = cypar.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Parallel for loops on a compiled core"}

autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
default_role = "code"  # a single backquote in docstrings is code, as in Markdown
myst_heading_anchors = 3
