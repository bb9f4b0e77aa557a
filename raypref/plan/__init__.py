"""What a run will need, in plain arithmetic: memory, places and time. Nothing here starts anything or needs a GPU.

Start with ``placement`` (bundles, from the config) and ``memory`` (what each role holds, by phase). ``raypref.compose`` places a run by
them, ``actors.cluster`` reserves the bundles and refuses what cannot fit, and the learner sizes its buffers by ``learner_memory``.
"""
