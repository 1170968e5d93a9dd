"""Configuration of Sphinx; ``build.py`` stages the sources and runs it."""

from __future__ import annotations

from synaptoroute.version import __version__

project = "SynaptoRoute"
author = "SynaptoRoute Cluster authors"
release = __version__
extensions = ["myst_parser"]
# Anchors of headings are those of the repository's own view of the files.
myst_heading_anchors = 4
# Blocks of code with prompts, ellipses and answers are not whole programs.
suppress_warnings = ["misc.highlighting_failure", "myst.header"]
highlight_language = "text"
html_theme = "furo"
html_title = "SynaptoRoute"
html_favicon = "../../coordinator/synaptoroute_coordinator/assets/mark.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/synaptoroute/synaptoroute-cluster/",
    "source_branch": "main",
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#12636b", "color-brand-content": "#0f5960"},
    "dark_css_variables": {"color-brand-primary": "#6cc5ce", "color-brand-content": "#6cc5ce"},
}
