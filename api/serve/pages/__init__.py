"""One module a page of the dashboard; each page's facts are JSON under `/api/` too."""
