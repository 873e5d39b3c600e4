"""Interactive figures by plotly, for notebooks and pages."""
