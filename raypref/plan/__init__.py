"""What a run will need, in plain arithmetic: memory, places and time. Nothing here starts anything or needs a GPU.

Start with ``run_plan``, which ``raypref plan`` prints (``report``) and a run writes to ``plan.json``. Its parts: ``memory`` (what each role
holds, by phase), ``fit``, ``remedies``, ``placement`` and ``capacity`` (bundles and nodes), ``duration``, ``supply``. A run itself is
placed by them, refused where it cannot fit, and sizes its buffers by ``learner_memory``: ``actors`` imports from here.
"""
