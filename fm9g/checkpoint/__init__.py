"""Checkpoints: complete or not there, and loadable by any number of ranks.

    checkpoints/U/<step>/fm9g_live_checkpoint-<step>.pt    weights, {name: tensor}; or, as save_format says,
    checkpoints/U/<step>/fm9g_live_checkpoint-<step>-00001-of-00002.safetensors …
    checkpoints/U/<step>/fm9g_live_checkpoint-<step>.safetensors.index.json
    checkpoints/U/<step>/fm9g_live_checkpoint-<step>.json  the model config
    checkpoints/U/<step>/optimizer-00000.pt …              one a rank: its pieces of the parameters' states
    checkpoints/U/<step>/data-00000.pt …                   one a rank: the states of its lanes
    checkpoints/U/<step>/random-00000.pt …                 one a rank: its random generators
    checkpoints/U/<step>/state.json                        step, counters, settings, model config
    checkpoints/U/<step>/manifest.json                     sizes and checksums of all of these
    checkpoints/U/latest                                   the newest complete step

All ranks write into `.<step>.partial`; when all are done it is renamed. A piece of optimizer state says which flat
range of which parameter it is, so ranks that are cut otherwise pick what overlaps theirs.
"""
