"""The reference role: log-probs of examples under pi_ref and pi_t.

``actor`` runs in each replica's process and holds the models; ``group`` is the driver's side (``raypref.roles.ReferenceRole``) and gives
each call to the least busy replica. Start with ``actor``. Imported by ``actors.run_actors`` only.
"""
