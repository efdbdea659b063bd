"""Ways in: task files, command line, REST, the OpenAI-compatible socket. They translate and decide nothing."""
