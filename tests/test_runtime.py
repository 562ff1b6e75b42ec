"""What runtime promises: the right variables, none of the user's own touched, silence, and being imported first."""

import ast
import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm import runtime
from tests.helpers import ROOT

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"
INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\n"
AVX512_FLAGS = "flags\t\t: fpu avx2 avx512f avx512dq avx512cd avx512bw avx512vl\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n"
PROCESSORS = ["amd", "intel", "arm", "no cpuinfo"]
SET_BY_RUNTIME = (
    "OMP_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "GLOG_minloglevel",
    "FLAGS_new_executor_serial_run",
    "FLAGS_eager_delete_tensor_gb",
    "FLAGS_cache_inference_while_scope",
)


def launched(*hosts: str) -> dict[str, str]:
    """What paddle.distributed.launch gives the first of its ranks, one rank a host name."""
    endpoints = [f"{host}:{6000 + rank}" for rank, host in enumerate(hosts)]
    return {"PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints), "PADDLE_CURRENT_ENDPOINT": endpoints[0]}


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run this Python at the root, with `variables` in place of all that runtime or a launcher sets."""
    environ = {k: v for k, v in os.environ.items() if k not in SET_BY_RUNTIME and not k.startswith("PADDLE_")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ | variables, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(("cpuinfo", "expected"), [(AMD, "5"), (INTEL, None), (ARM, None), ("", None)], ids=PROCESSORS)
def test_only_amd_processors_get_the_mkl_variable(cpuinfo, expected):
    assert runtime.environment_to_set({}, cpuinfo, 8).get("MKL_DEBUG_CPU_TYPE") == expected


def test_amd_processors_with_all_of_avx512_get_mkls_code_for_it():
    with_part = AMD + AVX512_FLAGS.replace(" avx512bw", "")
    assert runtime.environment_to_set({}, AMD + AVX512_FLAGS, 8)["MKL_DEBUG_CPU_TYPE"] == "7"
    assert runtime.environment_to_set({}, with_part, 8)["MKL_DEBUG_CPU_TYPE"] == "5"
    assert "MKL_DEBUG_CPU_TYPE" not in runtime.environment_to_set({}, INTEL + AVX512_FLAGS, 8)


@pytest.mark.parametrize(("cpuinfo", "expected"), [(AMD, "8"), (INTEL, "8"), (ARM, None), ("", None)], ids=PROCESSORS)
def test_threads_are_the_cores_where_paddle_has_mkl(cpuinfo, expected):
    assert runtime.environment_to_set({}, cpuinfo, 8).get("OMP_NUM_THREADS") == expected


set_by_user = st.dictionaries(st.sampled_from(SET_BY_RUNTIME), st.sampled_from(["", "0", "1", "7"]))


@given(set_by_user, st.sampled_from([AMD, INTEL, ARM]), st.integers(1, 256))
def test_a_variable_that_is_set_stays(environ, cpuinfo, cores):
    chosen = runtime.environment_to_set(environ, cpuinfo, cores)
    assert not chosen.keys() & environ.keys()
    assert environ.keys() | chosen.keys() == environ.keys() | runtime.environment_to_set({}, cpuinfo, cores).keys()


@given(st.integers(1, 256), st.integers(1, 16), st.integers(0, 16))
def test_ranks_share_the_cores_of_their_own_machine(cores, here, elsewhere):
    environ = launched(*["10.0.0.1"] * here, *["10.0.0.2"] * elsewhere)
    threads = int(runtime.environment_to_set(environ, INTEL, cores)["OMP_NUM_THREADS"])
    assert threads >= 1
    assert threads * here <= max(cores, here) < (threads + 1) * here


def test_the_launchers_own_thread_count_is_not_the_users():
    environ = launched("127.0.0.1", "127.0.0.1")
    assert runtime.environment_to_set(environ | {"OMP_NUM_THREADS": "1"}, AMD, 8)["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in runtime.environment_to_set(environ | {"OMP_NUM_THREADS": "3"}, AMD, 8)


def test_a_file_the_system_lacks_reads_as_empty(tmp_path):
    assert runtime.read_text(str(tmp_path / "cpuinfo")) == ""


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("", 8), ("max 100000\n", 8), ("200000 100000\n", 2), ("50000 100000\n", 1), ("6400000 100000\n", 8)],
)
def test_cores_are_those_allowed_and_within_the_containers_quota(monkeypatch, cpu_max, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert runtime.usable_cores(cpu_max) == expected


def test_only_paddles_thread_advice_is_dropped_from_stderr():
    kept = io.StringIO()
    stream = runtime.WithoutPaddleThreadAdvice(kept)
    advice = ["WARNING: OMP_NUM_THREADS set to 2, not 1.", "PLEASE USE OMP_NUM_THREADS WISELY."]
    for line in ["before", *advice, "", "after"]:
        print(line, file=stream)
    assert kept.getvalue() == "before\n\nafter\n"


def test_importing_the_stack_says_nothing_even_with_more_threads():
    done = run_python("-c", "import glm.runtime, paddlenlp.trainer, datasets", OMP_NUM_THREADS="2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Allocates and frees 64 MiB ten times, writing to every page, and prints the page faults that this took.
CHURN = """
import glm.runtime, ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = libc.malloc(ctypes.c_size_t(2**26))
    ctypes.memset(block, 1, 2**26)
    libc.free(ctypes.c_void_p(block))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt() is glibc's")
def test_freed_memory_is_used_again_unless_the_user_tunes_malloc():
    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")
    assert int(run_python("-c", CHURN).stdout) < 2 * pages
    assert int(run_python("-c", CHURN, MALLOC_ARENA_MAX="4").stdout) > 5 * pages


def test_runtime_imports_zlib_and_nothing_heavy():
    code = "import sys, glm.runtime; print(*sys.modules)"
    modules = set(run_python("-c", code).stdout.split())
    assert "zlib" in modules
    assert not modules & {"paddle", "paddlenlp", "numpy", "datasets", "pyarrow"}


def scripts() -> list[Path]:
    """The Python files of the root, the library and the benchmarks that can be run: they end in a main guard."""
    files = [*ROOT.glob("*.py"), *(ROOT / "glm").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    return sorted(path for path in files if '__name__ == "__main__"' in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.name)
def test_every_script_imports_runtime_first(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imports.sort(key=lambda node: node.lineno)
    names = [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in imports]
    # A script in a folder first has to say where runtime is.
    path_of_root = {"sys", "pathlib"} if path.parent.name == "benchmarks" else set()
    assert next(name for name in names if name not in {"__future__", *path_of_root}) == "glm.runtime"
