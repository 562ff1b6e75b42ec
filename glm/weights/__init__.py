"""Model directories, adapters, shards. `python -m glm.weights` divides models into shards and puts them together.

schemas          what the JSON files of directories may say
pickled_arrays   pickles of arrays, read without running or building what they ask for
weight_files     files of weights → arrays by name, one at a time
pytorch_files    files of torch.save, zip or pickles, likewise
weight_writers   files of weights, written one array at a time
weight_sources   which files a directory's weights are in, opened with paddle's names and layout
directory_kinds  whether a directory holds a model, an adapter or a program
stored_weights   the weights and config.json of a directory: files, layouts, shards, checks
builtin_model    makes glm-tiny-chinese
resharding       a model, whole or in shards, → another number of shards
published        models by name: in the caches of others, or fetched
model_directory  find, read, check and write model directories
stored_adapters  LoRA adapters of this project, PaddleNLP and PEFT, read alike
peft_export      LoRA adapters, written as PEFT's
adapters         LoRA adapters as directories: written, read, held against their base model
"""
