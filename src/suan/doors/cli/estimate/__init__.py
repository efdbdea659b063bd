"""`suan estimate`: what a run takes, before anything runs."""
