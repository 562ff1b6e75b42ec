"""What runs an exported program: FastDeploy, Paddle Inference, onnxruntime, behind one call.

Only one of the first two can live in a process: both bring Paddle's C++ library, in different versions, and crash
together.
"""

import importlib.util
import os

import numpy as np

from glm import stacks
from glm.decoding import numpy_search
from glm.errors import note
from glm.export import inspection, trial
from glm.export.program import ProgramError
from glm.files.native_paths import native_path
from glm.ops.processor import threads

# On CPU this pass of both runtimes keeps a padded copy of every matrix of the prefill, whose originals the loop reads:
# all weights twice, for no gain that could be measured.
DOUBLES_WEIGHTS = "fc_fuse_pass"
# In the environment of a launched process: the numbers of its GPUs.
SELECTED_GPUS = "FLAGS_selected_gpus"

# How many GB of what is not needed any more a running program keeps. glm.runtime has it keep all; but a program of PIR
# that keeps any gives wrong texts, without an error.
EAGER_DELETION = "FLAGS_eager_delete_tensor_gb"


def open_program(program, runtime="auto", device="cpu", backend="paddle"):
    """A function feeds → [ids [batch, texts, new]], with scores [batch, texts] after them if it gives any, that runs a
    program.Program.

    runtime: "auto" takes onnxruntime for ONNX programs; of the others FastDeploy where it is installed, else Paddle
    Inference. device: "cpu" or "gpu".
    backend: "paddle" for Paddle's own kernels, "onednn" for oneDNN's. Raises ProgramError.
    """
    runtime = checked(program, runtime, device, backend)
    opened = RUNNERS[runtime](program, device, backend)
    # Not on stdout, where answers may go.
    kernels = "" if runtime == "onnx" else f", backend: {backend}"
    note(f"runtime: {opened.name}, device: {device}{kernels}")
    return opened.run


def chosen(program, runtime="auto", device="cpu", backend="paddle"):
    """The runtime that is to run a program. Raises ProgramError where they do not go together; see open_program()."""
    if runtime == "auto":
        runtime = next(name for name in RUNNERS if can_run(name, program))
    check_combination(program, runtime, device, backend)
    return runtime


def checked(program, runtime="auto", device="cpu", backend="paddle"):
    """chosen(), once it is known that the program is sound. Raises ProgramError."""
    runtime = chosen(program, runtime, device, backend)
    inspection.check(program)
    trial.check(program, runtime, device, backend)
    return runtime


def can_run(runtime, program):
    """Whether a runtime is here and reads a program's format."""
    if (runtime == "onnx") != (program.format == "onnx") or (runtime, program.format) == ("fastdeploy", "pir"):
        return False
    return runtime != "fastdeploy" or importlib.util.find_spec("fastdeploy") is not None


def check_combination(program, runtime, device, backend):
    """Raise ProgramError where a program, a runtime, a device and a backend do not go together."""
    if program.compute != "float32" and device == "cpu":
        raise ProgramError(
            f"{program.model_file}: computes in {program.compute}, which needs a GPU; give --device gpu, or export it "
            "without --compute"
        )
    if runtime != "onnx" and program.format == "onnx":
        raise ProgramError(f"--runtime {runtime}: {program.model_file} is an ONNX program; leave --runtime out")
    if runtime == "onnx" and program.format != "onnx":
        raise ProgramError(f"--runtime onnx: {program.model_file} is none; export it with --format onnx")
    if runtime == "onnx" and device == "gpu":
        raise ProgramError("--device gpu: ONNX programs run on CPU only; export without --format onnx")
    if program.format == "pir" and runtime == "fastdeploy":
        raise ProgramError(
            f"--runtime fastdeploy cannot read {program.model_file}, a program of paddle 3; run it by --runtime paddle"
        )
    if program.format == "pir" and stacks.current().program_format != "pir":
        raise ProgramError(
            f"{program.model_file}: a program of paddle 3, which paddle 2.6 cannot read; run it on the paddle3 stack "
            "(make setup STACK=paddle3), or export it again on this one"
        )
    if program.format == "pir" and backend == "onednn":
        raise ProgramError("--backend onednn gives other texts with programs of paddle 3; leave it out")
    if runtime != "paddle" and backend == "onednn":
        reason = "gives other texts in FastDeploy 1.0.7" if runtime == "fastdeploy" else "is for Paddle's programs"
        raise ProgramError(f"--backend onednn {reason}; use it with --runtime paddle")
    if backend == "onednn" and device == "gpu":
        raise ProgramError("--backend onednn runs on CPU only; leave it out with --device gpu")


def gpu():
    """Number of the GPU to use: the one that paddle.distributed.launch has given this process, else the first."""
    return int(os.environ.get(SELECTED_GPUS, "").partition(",")[0] or 0)


class FastDeployRunner:
    """Runs a program by FastDeploy's Paddle Inference backend."""

    def __init__(self, program, device, backend):
        if importlib.util.find_spec("fastdeploy") is None:
            raise ProgramError("FastDeploy is not installed (it exists for Python 3.9 and 3.10); use --runtime paddle")
        import fastdeploy

        fastdeploy.set_logger(enable_info=False, enable_warning=False)
        option = fastdeploy.RuntimeOption()
        if device == "gpu":
            if not fastdeploy.is_built_with_gpu():
                raise ProgramError("--device gpu: this FastDeploy is built for CPU; install its GPU build")
            option.use_gpu(gpu())
        else:
            option.use_cpu()
            option.set_cpu_thread_num(threads())
        option.use_paddle_infer_backend()
        # Its default is on, and then gives other texts than every other way to run the same program.
        option.paddle_infer_option.enable_mkldnn = False
        option.paddle_infer_option.delete_pass(DOUBLES_WEIGHTS)
        with native_path(program.model_file) as model, native_path(program.params_file) as params:
            option.set_model_path(str(model), str(params))
            self.runtime = fastdeploy.Runtime(option)
        self.name = f"FastDeploy {fastdeploy.__version__}"

    def run(self, feeds):
        """What the program gives for arrays by input name."""
        # It compares dtypes by identity: arrays whose dtype object came out of a file would be refused.
        arrays = {name: np.array(array, dtype=array.dtype.name) for name, array in feeds.items()}
        return self.runtime.infer(arrays)


class PaddleRunner:
    """Runs a program by Paddle Inference."""

    def __init__(self, program, device, backend):
        import paddle
        from paddle import inference

        with native_path(program.model_file) as model, native_path(program.params_file) as params:
            kept = 0.0 if program.format == "pir" else float(os.environ[EAGER_DELETION])
            paddle.set_flags({EAGER_DELETION: kept})
            config = self.config(inference.Config(str(model), str(params)), program, device, backend)
            self.predictor = inference.create_predictor(config)
        self.name = f"Paddle Inference {paddle.__version__}"

    def config(self, config, program, device, backend):
        """The inference.Config of a program's files, with how to run it. Raises ProgramError."""
        from glm.ops import device as devices

        config.disable_glog_info()
        if device == "gpu":
            if not devices.is_built_for_gpus():
                raise ProgramError("--device gpu: this paddle is built without CUDA; install paddlepaddle-gpu")
            config.enable_use_gpu(256, gpu())
            if program.compute != "float32":
                # What fuses operators was written for weights in float32, and cannot be tried here.
                config.switch_ir_optim(False)
        else:
            config.set_cpu_math_library_num_threads(threads())
            # Its default is on where the processor has AVX.
            (config.enable_mkldnn if backend == "onednn" else config.disable_mkldnn)()
        if program.format == "paddle":
            # It raises for a program of PIR.
            config.enable_memory_optim()
        # The calls above choose passes anew.
        config.delete_pass(DOUBLES_WEIGHTS)
        return config

    def run(self, feeds):
        """What the program gives for arrays by input name."""
        for name, array in feeds.items():
            self.predictor.get_input_handle(name).copy_from_cpu(array)
        self.predictor.run()
        return [self.predictor.get_output_handle(name).copy_to_cpu() for name in self.predictor.get_output_names()]


class OnnxRunner:
    """Runs an ONNX program by onnxruntime, and its search by NumPy; without paddle."""

    def __init__(self, program, device, backend):
        if importlib.util.find_spec("onnxruntime") is None:
            raise ProgramError("onnxruntime is not installed: python -m pip install -r requirements.txt")
        import onnxruntime

        from glm.export.onnx_decoder import OnnxModel

        self.model = OnnxModel(program.model_file, threads())
        self.search = numpy_search.opened(self.model, program.config, program.special_ids)
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def run(self, feeds):
        """What the program gives for arrays by input name."""
        return numpy_search.finished(self.search, feeds)


RUNNERS = {"onnx": OnnxRunner, "fastdeploy": FastDeployRunner, "paddle": PaddleRunner}
