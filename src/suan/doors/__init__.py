"""Ways in: task files, the command line, REST, the OpenAI-compatible socket. They translate and decide nothing."""
