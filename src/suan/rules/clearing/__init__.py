"""The clearing: a question in arrays -> prices, a proven bound and a plan. `clear.py` is where to start."""
