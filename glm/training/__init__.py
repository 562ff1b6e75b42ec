"""A run that learns and survives.

batching        which examples make a training batch: shuffling, grouping, packing, ranks
memory          how much memory a run needs
meter           tokens a second, and memory used
adafactor       the optimizer that keeps little
optimization    the optimizer that is asked for, clipping, leaving out steps that are not finite; the schedule
evaluation      loss and generated texts of a model on rows, shared among ranks
task_scores     the same of rows of several tasks, each by itself
display         what a run shows: its plan, a bar or plain lines, samples
conditions      which flags of training need others to have an effect, or contradict each other
data_arguments  the flags of a run's data, and of decoding in evaluation
arguments       the flags of training: model, LoRA, and paddlenlp's TrainingArguments with our additions
byproducts      what reports to elsewhere, so that it neither ends nor holds up a run
callbacks       metrics.jsonl and loss.png, stopping early, averaging gradients
step_guard      steps left out: reported with their records, and not many in a row
training_state  what a checkpoint holds besides the model, at any degree of tensor parallelism
saving          checkpoints: whole or not at all, in the foreground or beside training
continuation    how a run begins in its output_dir: anew, or from a checkpoint of the same run
resumable       ResumableTrainer: saving, signals, resuming, over paddlenlp's Trainer
trainer         GLMTrainer: ResumableTrainer with our loss, batches, schedule and evaluation
"""
