"""Runs each test of a test binary by itself and with an end: one that hangs costs its own time only, and is named with what it waits for."""
import os
import pathlib
import re
import signal
import subprocess
import time

LAST_WORDS_S = 3  # for a test whose programs were killed to say which of them did not answer, and to what


def names_in(binary, environment, only=()):
    """Its tests, those that begin with one of `only`."""
    listed = subprocess.run([binary, "--list"], env=environment, capture_output=True, text=True, timeout=30, check=True).stdout
    names = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
    return [name for name in names if name.startswith(tuple(only) or "")]


def run_each(binary, names, environment, log, limit_s, ends, umask=-1):
    """Runs them one after the other, each for `limit_s` at most, until `ends` (time.monotonic()): of each the result (ok, skipped,
    failed, hung, or not run) and the seconds; what they say goes to `log`."""
    results = {}
    with log.open("w", errors="replace") as file:
        for name in names:
            left_s = ends - time.monotonic() - LAST_WORDS_S
            if left_s < 1:
                results[name] = {"result": "not run", "seconds": 0.0}
                continue
            results[name] = run_one(binary, name, environment, min(limit_s, left_s), umask)
            said = results[name].pop("said")
            print(f"  {results[name]['seconds']:6.2f} s {results[name]['result']:<8} {name}", flush=True)
            for line in results[name].get("waited_in", []):
                print(f"           {line}", flush=True)
            file.write(f"==== {name}: {results[name]['result']}, {results[name]['seconds']} s\n{said}\n")
            file.flush()
    return results


def run_one(binary, name, environment, limit_s, umask):
    began, found = time.monotonic(), {}
    arguments = ["--exact", name, "--test-threads", "1", "--nocapture"]
    running = subprocess.Popen([binary, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace", start_new_session=True, umask=umask)
    try:
        said = running.communicate(timeout=limit_s)[0]
    except subprocess.TimeoutExpired:
        found["waited_in"] = [f"after {limit_s:.0f} s: {described(pid)}" for pid in (running.pid, *descendants(running.pid))]
        said = end(running)
    if "waited_in" in found:
        result = "hung"
    elif running.returncode or "1 passed" not in said:
        result = "failed"
    else:
        result = "skipped" if "skipped: " in said else "ok"
    return {"result": result, "seconds": round(time.monotonic() - began, 2), **found, "said": said}


def end(running):
    """Kills the programs of a test, and the test too if it does not end then; what it said."""
    for pid in descendants(running.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        return running.communicate(timeout=LAST_WORDS_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
    try:
        return running.communicate(timeout=LAST_WORDS_S)[0]
    except subprocess.TimeoutExpired:
        return "and it could not be killed: it waits in the driver"


def descendants(pid):
    """All processes that come from this one and are there now."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may have any characters.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def described(pid):
    """The process, and where in the kernel each of its threads waits."""
    about = pathlib.Path("/proc") / str(pid)
    try:
        command = about.joinpath("cmdline").read_text(errors="replace").replace("\0", " ").strip()
        waits = []
        for thread in sorted(about.joinpath("task").iterdir()):
            state = thread.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            waits.append(f"{state} {thread.joinpath('wchan').read_text() or '-'}")
    except OSError as error:
        return f"process {pid}: {error}"
    return f"process {pid} `{command[-200:]}` ({', '.join(waits[:8])})"
