"""A figure is seen in every notebook: by plotly, as HTML and as a bitmap, with one toolbar."""

from __future__ import annotations

import base64
import re

import nbformat
from builders import synthetic_trace
from IPython.core.formatters import DisplayFormatter
from nbconvert import HTMLExporter

from tracescribe.viz import heatmap, profile
from tracescribe.viz.interactive.html import PLOTLY_CONFIG, figure_div

TRACE = synthetic_trace(6, 4)
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_notebook_keeps_three_forms() -> None:
    bundle, _ = DisplayFormatter(active_types=["text/plain"]).format(heatmap(TRACE, title="<b> & more"))
    assert {"application/vnd.plotly.v1+json", "text/html", "image/png"} <= set(bundle)
    assert bundle["application/vnd.plotly.v1+json"]["config"] == PLOTLY_CONFIG
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert 'alt="&lt;b&gt; &amp; more"' in bundle["text/html"] and "<script" not in bundle["text/html"]


def test_an_exported_notebook_shows_the_figure_without_plotly_and_network() -> None:
    bundle, _ = DisplayFormatter(active_types=["text/plain"]).format(profile({"a": TRACE, "b": TRACE.per_layer()}))
    output = nbformat.v4.new_output("execute_result", data=bundle, execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("figure", outputs=[output])])
    nbformat.validate(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    shown = re.findall(r'<img alt="CTE, sum per layer[^"]*"[^>]*src="data:image/png;base64,([^"]+)"', page)
    assert len(shown) == 1 and base64.b64decode(shown[0]).startswith(PNG)


def test_the_picture_shows_what_the_figure_shows() -> None:
    figure = heatmap(TRACE, pair=1, title="chosen")
    assert figure.shown is not None and figure.shown.title == "chosen"
    assert heatmap(TRACE, pair=1)._picture() != heatmap(TRACE, pair=2)._picture()


def test_one_toolbar_everywhere() -> None:
    figure = heatmap(TRACE)
    for page in (
        figure.to_html(full_html=False, include_plotlyjs=False),
        figure_div(figure, "x"),
        figure.to_html({"scrollZoom": True}, include_plotlyjs=False),
    ):
        assert '"displaylogo": false' in page and '"lasso2d"' in page


def test_a_copy_that_lost_its_picture_still_has_plotlys_form() -> None:
    import copy

    bundle = copy.deepcopy(heatmap(TRACE))._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.plotly.v1+json"}
