"""For every test, before anything reads the environment: nothing may ask a hub, and no cluster of the machine's own is joined."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ADDRESS"] = "local"
