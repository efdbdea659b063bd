"""The OpenAI-compatible socket: models by name, wherever their services run. Routes, streams, counts."""
