"""Show a result: turn its numbers into findings, a table and a page."""
