"""SPO on AlpacaFarm's pairs, with the paper's settings."""
