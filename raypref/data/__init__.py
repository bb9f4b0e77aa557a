"""From data to prompts and examples. Nothing here imports Ray, vLLM or torch; ``loop``, ``judging`` and the actors import from here.

Start with ``prompts``, ``given_preferences`` or ``demonstrations``, one per ``data.type``. ``records`` reads files; ``record_prompts``
turns a record into a prompt; ``layouts`` recognises the layouts of preference data; ``tokenization`` is the one place where text becomes
token ids; ``examples`` puts responses together as the sequences that a loss wants; ``revision`` and ``templates`` ask for better answers.
"""
