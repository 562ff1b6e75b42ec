"""What one framework version or one device needs.

dtypes         what weights are stored in, bfloat16 among it
processor      what this processor multiplies with
device         where this process computes, and which branches of the code that means
numpy_kernels  operators of training on CPU, by NumPy
onednn         the same, by oneDNN
cpu_kernels    operators that paddle computes slowly on CPU, by the better of these
strides        paddle without views of memory
control_flow   loops and branches on tensors, eagerly and exported
"""
