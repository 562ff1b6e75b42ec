"""What to tell about a flag or key that nothing has: what it is called here, or its nearest neighbour."""

import difflib

# What other projects call it → the flags that may stand for it here, of which a script's first one is named. Hugging
# Face's Trainer and generate(), LLaMA-Factory, PaddleNLP's own recipes.
SYNONYMS = {
    "lr": ("learning_rate",),
    "model": ("model_name_or_path", "model_path"),
    "model_name": ("model_name_or_path", "model_path"),
    "model_dir": ("model_path", "model_name_or_path"),
    "base_model": ("model_name_or_path",),
    "pretrained_model_name_or_path": ("model_name_or_path",),
    "params_path": ("model_prefix", "model_name_or_path"),
    "adapter_name_or_path": ("lora_path",),
    "adapter_path": ("lora_path",),
    "peft_path": ("lora_path",),
    "dataset": ("task_name", "data_file"),
    "dataset_name": ("task_name", "data_file"),
    "dataset_name_or_path": ("task_name", "data_file"),
    "dataset_dir": ("task_name", "data_file"),
    "dataset_path": ("task_name", "data_file"),
    "data": ("task_name", "data_file"),
    "data_dir": ("task_name", "data_file"),
    "data_path": ("task_name", "data_file"),
    "train_file": ("task_name",),
    "train_data": ("task_name",),
    "train_path": ("task_name",),
    "validation_file": ("task_name",),
    "dev_file": ("task_name",),
    "eval_file": ("task_name",),
    "test_file": ("data_file", "task_name"),
    "predict_file": ("data_file",),
    "input_file": ("data_file", "task_name"),
    "input": ("data_file", "task_name"),
    "val_size": ("dev_ratio",),
    "max_samples": ("max_train_samples",),
    "cutoff_len": ("src_length",),
    "max_seq_length": ("src_length",),
    "max_seq_len": ("src_length",),
    "max_source_length": ("src_length",),
    "max_src_length": ("src_length",),
    "max_input_length": ("src_length",),
    "max_target_length": ("tgt_length",),
    "max_tgt_length": ("tgt_length",),
    "max_new_tokens": ("tgt_length",),
    "max_dec_len": ("tgt_length",),
    "max_length": ("tgt_length", "src_length"),
    "min_new_tokens": ("min_tgt_length",),
    "min_length": ("min_tgt_length",),
    "beam_size": ("num_beams",),
    "beams": ("num_beams",),
    "do_sample": ("select_topk",),
    "decode_strategy": ("select_topk",),
    "num_samples": ("num_return_sequences",),
    "output": ("output_dir", "output_file", "output_path"),
    "out": ("output_dir", "output_file", "output_path"),
    "output_dir": ("output_path", "output_file"),
    "output_file": ("output_path", "output_dir"),
    "output_path": ("output_file", "output_dir"),
    "save_dir": ("output_dir", "output_path", "output_file"),
    "export_dir": ("output_path",),
    "prediction_file": ("output_file",),
    "batch_size": ("per_device_train_batch_size", "max_batch_size"),
    "train_batch_size": ("per_device_train_batch_size",),
    "eval_batch_size": ("per_device_eval_batch_size",),
    "per_device_batch_size": ("per_device_train_batch_size",),
    "per_gpu_train_batch_size": ("per_device_train_batch_size",),
    "micro_batch_size": ("per_device_train_batch_size",),
    "gradient_accumulation": ("gradient_accumulation_steps",),
    "grad_accum": ("gradient_accumulation_steps",),
    "accumulation_steps": ("gradient_accumulation_steps",),
    "epochs": ("num_train_epochs",),
    "num_epochs": ("num_train_epochs",),
    "num_epoch": ("num_train_epochs",),
    "epoch": ("num_train_epochs",),
    "steps": ("max_steps",),
    "max_train_steps": ("max_steps",),
    "warmup": ("warmup_ratio",),
    "num_warmup_steps": ("warmup_steps",),
    "warmup_proportion": ("warmup_ratio",),
    "lr_scheduler": ("lr_scheduler_type",),
    "scheduler": ("lr_scheduler_type",),
    "optimizer": ("optim",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "epsilon": ("adam_epsilon",),
    "clip": ("max_grad_norm",),
    "gradient_clipping": ("max_grad_norm",),
    "label_smoothing_factor": ("label_smoothing",),
    "neftune_noise_alpha": ("neftune_alpha",),
    "gradient_checkpointing": ("recompute",),
    "eval_strategy": ("evaluation_strategy",),
    "valid_steps": ("eval_steps",),
    "early_stopping": ("early_stopping_patience",),
    "patience": ("early_stopping_patience",),
    "resume": ("resume_from_checkpoint",),
    "checkpoint": ("resume_from_checkpoint", "model_name_or_path"),
    "overwrite": ("overwrite_output_dir",),
    "finetuning_type": ("lora",),
    "use_lora": ("lora",),
    "use_peft": ("lora",),
    "rank": ("lora_rank",),
    "lora_r": ("lora_rank",),
    "alpha": ("lora_alpha",),
    "lora_target": ("lora_target_modules",),
    "target_modules": ("lora_target_modules",),
    "use_rslora": ("rslora",),
    "loraplus_lr_ratio": ("lora_plus_scale",),
    "tp": ("tensor_parallel_degree",),
    "tp_degree": ("tensor_parallel_degree",),
    "tensor_parallel_size": ("tensor_parallel_degree",),
    "use_cpu": ("device",),
    "cpu": ("device",),
    "precision": ("dtype", "fp16"),
    "torch_dtype": ("dtype", "fp16"),
    "quantization": ("dtype",),
    "ip": ("host",),
}
# What tells more than a name does, by flag and the one that stands for it.
REMARKS = {
    "do_sample": ", and --select_topk False draws",
    "decode_strategy": ", and --select_topk False draws",
    "use_cpu": ", as in --device cpu",
    "cpu": ", as in --device cpu",
    "train_file": ": a JSON Lines file, or a directory with train.json and dev.json",
    "validation_file": ": a directory with train.json and dev.json",
    "dev_file": ": a directory with train.json and dev.json",
    "eval_file": ": a directory with train.json and dev.json",
    "finetuning_type": ", as in --lora True",
    "use_lora": ", as in --lora True",
    "use_peft": ", as in --lora True",
    "val_size": ", a share of the training records",
    "early_stopping": ": evaluations without a better score",
}
# What scripts of this project have and others of them do not: flag → why not here, with what to do.
ELSEWHERE = {
    "num_beams": "beams are fixed when a program is exported: export it anew with export_generation_model.py "
    "--num_beams",
    "select_topk": "whether a program draws is fixed when it is exported: export it anew with "
    "export_generation_model.py --select_topk",
    "no_repeat_ngram_size": "it is fixed when a program is exported: export it anew with export_generation_model.py "
    "--no_repeat_ngram_size",
    "model_name_or_path": "an exported program is run here: give its directory as --model_path; "
    "export_generation_model.py makes it",
    "lora_path": "an adapter is added when a program is exported: export it with export_generation_model.py "
    "--lora_path",
}


def unknown_name(name, known, prefix=""):
    """Message for a flag (prefix "--") or key that nothing has. known: all names that there are."""
    if prefix and not name.startswith("-"):
        if name.endswith((".json", ".jsonl")):
            return f"{name}: a configuration file comes first, before all flags; data go into a flag, see --help"
        return f"unexpected value {name!r} on the command line; quote what has spaces in it"
    given = name.split("=")[0] if prefix else name
    bare = given.lstrip("-").replace("-", "_")
    here = next((flag for flag in SYNONYMS.get(bare, ()) if flag in known), None)
    if bare in known and given != f"{prefix}{bare}":
        return f"unknown name {given}: it is written {prefix}{bare}"
    if here:
        return f"unknown name {given}: here it is called {prefix}{here}{REMARKS.get(bare, '')}"
    if bare in ELSEWHERE and "model_prefix" in known:
        return f"unknown name {given}: {ELSEWHERE[bare]}"
    # One letter is near to everything short, and everything long to nothing.
    near = difflib.get_close_matches(bare, [other for other in known if len(other) > 2], n=1)
    return f"unknown name {given}" + (f"; did you mean {prefix}{near[0]}?" if near else "; --help lists all")
