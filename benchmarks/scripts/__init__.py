"""The script pipeline that ``benchmarks.script_pipeline`` measures against: one process a stage, anew for each iteration.

    python -m benchmarks.scripts.generate FOLDER ITERATION        prompts.json, policy_t           -> t/responses.json
    python -m benchmarks.scripts.rank FOLDER ITERATION            t/responses.json                 -> t/ranking.npy
    python -m benchmarks.scripts.compute_prob FOLDER ITERATION    t/responses.json, t/ranking.npy  -> t/pairs.json
    python -m benchmarks.scripts.train FOLDER ITERATION           t/pairs.json, policy_t           -> policy_t+1

The stages, their names and what passes between them are those that the SPPO authors publish (github.com/uclaml/SPPO, scripts/ and
sppo/); the code is our own and leaves out what their work does not need: their loop over the K responses, the merging of shards of several
GPUs, the reading of prompts from a hub, the tokenising of responses for training, the launcher of a group of one rank.
"""
