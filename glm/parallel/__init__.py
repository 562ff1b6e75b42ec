"""Ranks, what they exchange, and the layers divided among them.

sharding  how weights are divided among tensor-parallel ranks
hub       exchange of arrays among a few processes over connections of their own
ranks     a group of ranks and what it exchanges, on GPUs and on CPU
layers    linear layers and embeddings divided among ranks
"""
