"""SPO on rankings of four TinyStories, with the paper's settings."""
