"""The training loop of a run: sample, judge, score, train, sync; evaluate and save between iterations.

Start with ``driver``: the whole loop, top to bottom. Every other module is one of its parts, named after what it does. The loop calls
four roles (``raypref.roles``) and knows nothing of Ray, vLLM or DeepSpeed. ``raypref.compose`` builds it and runs it, and uses
``loading`` and ``generation``; ``raypref check`` uses ``loading``, and the oracle's actor ``requests``. Nothing else imports this room.
"""
