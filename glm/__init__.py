"""GLM for generation: everything behind the scripts at the root.

    ops         what one framework version or one device needs
    files       whole or not at all; nothing unsafe
    decoding    from logits to texts, eagerly and exported
    parallel    ranks, what they exchange, divided layers
    data        records → token ids → batches; never imports paddle
    model       GLM's forward pass and loss
    weights     model directories, adapters, shards
    inference   prompts → texts in files, whatever decodes
    export      programs and what runs them
    serving     many clients, one model
    training    a run that learns and survives

A room imports from rooms above it in this list only. Beside the rooms: runtime (imported before paddle), stacks (in
which versions of paddle differ), texts (what programs say, in the reader's language), errors, stopping, cache, bounds,
needs, flag_names, command_line, metrics.
"""
