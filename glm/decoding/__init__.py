"""From logits to texts; the same code runs eagerly and is exported.

generation_config  how to decode: choices, checks, the arrays a decoder is fed
scores             from logits to chosen tokens: bans, distributions, draws, extensions of beams
search             greedy search, sampling, beam search
decoder            a model and a search as one layer, which is exported; generate()
"""
