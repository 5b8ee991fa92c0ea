#!/usr/bin/env python3
"""Shows on a GPU that an unmodified PyTorch program is held to a memory quota, beside the same program without one.

    scripts/gpu/slice.py [--bin DIR] [--out DIR] [--memory 8GiB]

DIR (default: target/release) holds `cuota` and `libcuota.so`. Writes DIR/slice.json and prints a summary. Exit status 0
only if every claim holds.
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pynvml

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20


class Sampler(threading.Thread):
    """The most that NVML shows for a process and its children, in samples of about 10 ms."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.samples, self.done = pid, 0, 0, threading.Event()
        self.device = pynvml.nvmlDeviceGetHandleByIndex(0)

    def run(self):
        while not self.done.is_set():
            used = sum(p.usedGpuMemory or 0 for p in pynvml.nvmlDeviceGetComputeRunningProcesses(self.device)
                       if p.pid == self.pid)
            self.peak, self.samples = max(self.peak, used), self.samples + 1
            time.sleep(0.01)


def tenant(command, environment=None):
    """Runs a program; its JSON lines by `what`, its exit status, and NVML's peak for it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **(environment or {})})
    sampler = Sampler(process.pid)
    sampler.start()
    out, err = process.communicate()
    sampler.done.set()
    sampler.join()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {"command": [str(part) for part in command], "status": process.returncode, "stderr": err[-2000:],
            "facts": {line["what"]: line for line in lines}, "nvml_peak_mib": sampler.peak / MIB, "nvml_samples": sampler.samples}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent.parent / "target/release")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--memory", default="8GiB")
    asked = parser.parse_args()
    pynvml.nvmlInit()
    limited = [asked.bin / "cuota", "run", "--lib", asked.bin / "libcuota.so", "--memory", asked.memory, "--"]
    program = [sys.executable, HERE / "torch_tenant.py"]
    quota = int(asked.memory.removesuffix("GiB")) * 1024

    native, again = tenant(program), tenant(program)
    held = tenant([*limited, *program, "--fill"])
    expandable = tenant([*limited, *program, "--fill"], {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
    asynchronous = tenant([*limited, *program, "--fill"], {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"})
    smi = subprocess.run([*limited, "nvidia-smi", "--query-gpu=memory.total,memory.used,driver_version,name", "--format=csv,noheader"],
                         capture_output=True, text=True)
    whole = subprocess.run([*limited, "nvidia-smi"], capture_output=True, text=True)

    def sha(run, what):
        return run["facts"].get(what, {}).get("sha256")

    claims = {}
    for what in ("train", "decode by graph"):
        claims[f"{what}: native is reproducible"] = sha(native, what) == sha(again, what) is not None
        claims[f"{what}: bit-equal under the quota"] = sha(held, what) == sha(native, what) is not None
        claims[f"{what}: bit-equal under the quota, expandable_segments"] = sha(expandable, what) == sha(native, what) is not None
    for name, run in (("plain", held), ("expandable_segments", expandable), ("cudaMallocAsync", asynchronous)):
        filled, after = run["facts"].get("filled", {}), run["facts"].get("after the refusal", {})
        claims[f"{name}: the program sees {quota} MiB"] = run["facts"].get("device", {}).get("total_mib") == quota
        claims[f"{name}: a clean out-of-memory error at the quota"] = "out of memory" in filled.get("error", "").lower()
        claims[f"{name}: it goes on afterwards"] = run["status"] == 0 and after.get("still_computes", False)
        claims[f"{name}: NVML's peak is not over the quota"] = 0 < run["nvml_peak_mib"] <= quota
    claims[f"nvidia-smi shows {quota} MiB"] = smi.stdout.startswith(f"{quota} MiB")
    results = {"schema": 1, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
               "argv": sys.argv[1:], "nvidia_smi": smi.stdout.strip(), "nvidia_smi_whole": whole.stdout, "quota_mib": quota,
               "claims": claims, "native": native, "native_again": again, "plain": held,
               "expandable_segments": expandable, "cudaMallocAsync": asynchronous}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "slice.json").write_text(json.dumps(results, indent=1) + "\n")
    for name in ("plain", "expandable_segments", "cudaMallocAsync"):
        run = results[name]
        print(f"{name}: NVML peak {run['nvml_peak_mib']:.0f} of {quota} MiB in {run['nvml_samples']} samples; {run['facts'].get('filled')}")
        if run["status"]:
            print(f"  status {run['status']}: {run['stderr']}")
    print("nvidia-smi:", smi.stdout.strip(), smi.stderr.strip())
    for claim, holds in claims.items():
        print("holds " if holds else "FAILS ", claim)
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
