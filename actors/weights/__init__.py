"""Weight sync: the learner's weights, on their way to every other copy of the policy, with checksums at both ends.

Start with ``sender``, the learner's side; then ``transport``, what a way to travel must offer: ``shm``, ``nccl``, ``ipc`` and
``object_store`` are one file each, and a new one is one more. ``source`` reads the weights out of the trained model,
``received_policy`` takes them in a reference, ``worker_extension`` and ``vllm_adapters`` in an engine. Imported by ``actors`` only.
"""
