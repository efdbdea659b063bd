"""Ways in: task files, command line, REST, OpenAI-compatible socket. They translate and decide nothing."""
