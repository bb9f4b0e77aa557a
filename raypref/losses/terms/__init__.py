"""Terms that several losses share: ``ratios`` (log-probs and log-ratios), ``pairs`` (base of the pair losses, labels, margins),
``choices`` (Plackett-Luce), ``in_dataset`` (SPO's regularisers on the data) and ``margins`` (the metrics of every preference loss).

Only losses import from here, third parties' included. All functions are pure: tensors in, tensors out. Start with ``ratios``.
"""
