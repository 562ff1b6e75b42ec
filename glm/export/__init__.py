"""Programs and what runs them.

static_program  a decoder, its loop included, as a static program of Paddle's
smoothing       which channels of hidden states are large, and factors that even them out
onnx_graph      an ONNX graph in the making, with products of float32 or of whole numbers
onnx_program    GLM's forward pass with a cache as an ONNX graph, in float32 or int8
onnx_decoder    such a graph, run by onnxruntime, as the model of a search
description     what a program says of itself, in JSON
inspection      what is looked at of a program before anything runs it
program         an exported program as files: which there are, what describes them
trial           a program that is new here, run in a process of its own
runners         FastDeploy, Paddle Inference and onnxruntime behind one call
"""
