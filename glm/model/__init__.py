"""GLM's forward pass and loss.

configuration  sizes and constants of a model
layers     what holds its parameters, under paddlenlp's names
layout     how examples lie in a batch without padding, and who sees whom
attention_by_example  attention on CPU, one example after another
attention  attention over examples without padding, in the ways that suit CPU and GPU
dropout    dropout and NEFTune's noise, drawn by key and place
tied_weight  the gradient of word embeddings that are the head, too
losses     label-smoothed cross entropy that never holds all logits
lora       linear layers with a trained update of low rank
outputs_first  linear layers laid for decoding
modeling   the forward pass, the loss and the key/value cache, over those layers
"""
