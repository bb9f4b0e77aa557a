"""From data to prompts and examples. Nothing here imports Ray, vLLM or torch; ``loop``, ``judging`` and the actors import from here.

Start with ``prompts``, ``given_preferences`` or ``demonstrations``, one per ``data.type``. ``records`` is the door: it reads ``files``,
``folders`` and Python ``objects``. ``record_prompts`` turns a record into a prompt, a text or one of ``chats``; ``layouts`` recognises
preference data; ``tokenization`` is the one place where text becomes token ids; ``examples`` puts responses together as a loss wants them.
"""
