"""The store over HTTP: JSON under `/api/`, and the dashboard's pages."""
