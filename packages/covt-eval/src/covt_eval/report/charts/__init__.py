"""Charts as geometry, ready for the page's template. Imports only `content`."""
