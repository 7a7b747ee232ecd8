"""Looks into the latents of single answers, beside a running server: `POST /covt/inspect` and the page that shows it.

May import evaluation and statistics. `inspect_app` is the ASGI middleware that `covt serve --page` loads.
"""
