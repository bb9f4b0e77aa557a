"""SRPO on UltraFeedback's pairs, with the paper's settings."""
