"""Do the library's losses do what their theorems say?

    python -m benchmarks theory [--only METHOD] [--figure PATH.svg]

Prints one JSON line per claim: name, value, relation, bound, holds (null for a value that is only reported). The last line has the share
of the claims that hold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.theory import inpo, spo, sppo, srpo
from benchmarks.theory.claim import Claim
from benchmarks.theory.figure import draw

METHODS: dict[str, Callable[[], Iterator[Claim]]] = {"sppo": sppo.claims, "inpo": inpo.claims, "spo": spo.claims, "srpo": srpo.claims}


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 when every claim holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks theory", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=sorted(METHODS), help="the claims of one method")
    parser.add_argument("--figure", type=Path, help="write Figure 2 of the SRPO paper to this SVG file")
    options = parser.parse_args(arguments)
    if options.figure:
        title = f"Probability of each arm, {srpo.PAIRS:,} sampled pairs, beta = 1, SRPO at alpha = 0 (SRPO paper, Figure 2)"
        draw({behaviour: srpo.figure_2(behaviour) for behaviour in srpo.BEHAVIOURS}, title, options.figure)
    held = claimed = 0
    for name, claims in METHODS.items():
        for claim in claims() if options.only in (None, name) else ():
            print(claim.line(), flush=True)
            claimed += claim.holds is not None
            held += claim.holds is True
    print(json.dumps({"name": "theory", "value": held / claimed, "relation": ">=", "bound": 1.0, "holds": held == claimed}))
    return 0 if held == claimed else 1
