"""The report page: text, figures and tables in one self-contained HTML file."""
