"""Compiles the .cu files of this folder to PTX with NVRTC; started by scripts/regenerate-kernels."""

import ctypes
import hashlib
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
# The least compute capability that each file needs: 8.0 has mma with bf16 and cp.async.
ARCHITECTURE = {"basic": 70, "gemm": 80, "attention": 80, "model": 80}
HEADERS = ["mma.h"]
# What the software GPU takes for a launch, unless the source says otherwise: the kernel's first argument.
COST = "spin_arg=0"


def sources_hash(name):
    """SHA-256 over the source and the headers that it includes: the test in bench/src/gpu/module.rs does the same."""
    text = (FOLDER / f"{name}.cu").read_bytes()
    for header in HEADERS:
        if f'#include "{header}"'.encode() in text:
            text += (FOLDER / header).read_bytes()
    return hashlib.sha256(text).hexdigest()


def compile_to_ptx(nvrtc, name):
    """The PTX of one file; ends the program with the compiler's words where there is none."""
    source = (FOLDER / f"{name}.cu").read_bytes()
    program = ctypes.c_void_p()
    contents = [(FOLDER / header).read_bytes() for header in HEADERS]
    strings = ctypes.c_char_p * len(HEADERS)
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source, f"{name}.cu".encode(), len(HEADERS),
        strings(*contents), strings(*[header.encode() for header in HEADERS]),
    )
    options = [f"--gpu-architecture=compute_{ARCHITECTURE[name]}".encode(), b"--std=c++17"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if status != 0:
        sys.exit(f"{name}.cu: {log.value.decode()}")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


def with_costs(ptx, source):
    """The PTX with a line before each kernel that tells the software GPU what a launch takes."""
    said = dict(re.findall(r"^// cuota-sim: (\w+) (.+)$", source, re.MULTILINE))
    cost = lambda match: f"// cuota-sim: {said.get(match[2], COST)}\n{match[1]}"
    return re.sub(r"^(\.visible \.entry (\w+)\()", cost, ptx, flags=re.MULTILINE)


def main():
    tools = pathlib.Path(sys.argv[1])
    check = "--check" in sys.argv
    nvrtc = ctypes.CDLL(str(tools / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"))
    differ = []
    for name, architecture in ARCHITECTURE.items():
        ptx = with_costs(compile_to_ptx(nvrtc, name), (FOLDER / f"{name}.cu").read_text())
        ptx = ptx.split(".version", 1)[1]
        # Variables of the compiler's own header, which no kernel reads.
        ptx = re.sub(r"^\.global .*_INTERNAL_.*2nv6target.*\n", "", ptx, flags=re.MULTILINE)
        head = (
            f"// Made from {name}.cu by scripts/regenerate-kernels; do not edit.\n// sources-sha256: {sources_hash(name)}\n"
        )
        text = head + ".version" + ptx.rstrip() + "\n"
        path = FOLDER / f"{name}.ptx"
        for sm in {architecture, 90}:
            words = [tools / "nvidia/cuda_nvcc/bin/ptxas", "-v", f"-arch=sm_{sm}", "-o", "/dev/null", "-"]
            done = subprocess.run(words, input=text, text=True, capture_output=True)
            if done.returncode != 0:
                sys.exit(f"{name}.ptx does not assemble for sm_{sm}: {done.stderr}")
            if re.search(r"[1-9]\d* bytes spill", done.stderr):
                print(f"{name}.ptx spills registers on sm_{sm}:\n{done.stderr}", file=sys.stderr)
        if check and path.read_text() != text:
            differ.append(path.name)
        if not check:
            path.write_text(text)
            print(f"{path.name}: {len(text)} bytes")
    if differ:
        sys.exit(f"not what the sources give: {', '.join(differ)}. Run scripts/regenerate-kernels and commit")


main()
