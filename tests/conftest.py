"""For every test, before anything reads the environment.

Nothing may ask a hub, and no running Ray cluster is joined. Torch computes with one thread: on tensors as small as those of the tests a
second thread costs more than it saves, and many times more where it waits for a core.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ADDRESS"] = "local"
os.environ["OMP_NUM_THREADS"] = "1"
