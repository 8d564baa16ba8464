"""Makes tables, figures and an HTML page from the files of runs."""
