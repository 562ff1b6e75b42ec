"""Programs and what runs them.

static_program  a decoder, its loop included, as a static program of Paddle's
smoothing       which channels of hidden states are large, and factors that even them out
whole_numbers   matrices as whole numbers of few bits
onnx_graph      an ONNX graph in the making, with products of float32 or of whole numbers
adapter_bank    LoRA adapters of one model for the graph that decodes prompts of several together
stored_bank     the same, read from their directories and held against the model
onnx_program    GLM's forward pass with a cache as an ONNX graph, in float32, int8 or int4
onnx_decoder    such a graph, run by onnxruntime, as the model of a search
engines         what decodes a model in Python: its layers, or its ONNX graph, kept in the cache
description     what a program says of itself, in JSON
inspection      what is looked at of a program before anything runs it
program         an exported program as files: which there are, what describes them
trial           a program that is new here, run in a process of its own
runners         FastDeploy, Paddle Inference and onnxruntime behind one call
for_searches    exported programs for several searches at once
"""
