"""From logits to texts: in tensor operations, which run eagerly and are exported, and in NumPy, without paddle.

generation_config  how to decode: choices, checks, the arrays a decoder is fed
scores             from logits to chosen tokens: bans, distributions, draws, extensions of beams
within             searches bound to texts: what may come next, and where a text has got to
search             greedy search, sampling, beam search
decoder            a model and a search as one layer, which is exported; generate()
key_values         what a model remembers of prompts that are being decoded, in NumPy
numpy_scores       what scores does, in NumPy
numpy_within       what within does, in NumPy
numpy_search       what search does, in NumPy, for prompts that come and go
"""
