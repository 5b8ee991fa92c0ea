"""Runs cells of `card` (crates/governor/examples/card): one process a group of cells, each result kept as soon as it is there.

A process that says nothing for too long is ended, the cell that it was at is left out, and the rest of the group goes on in a new
process. Nothing is begun for which there is no time any more.
"""
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
START_S = 6.0  # A process: the driver, the context, three modules of PTX.


class Group:
    """Cells that one process runs, one after the other: a workload, with its flags."""

    def __init__(self, workload, cells, seconds, flags=()):
        self.workload, self.cells, self.seconds, self.flags = workload, list(cells), seconds, list(flags)

    def cell_s(self, cell):
        """About how long a cell takes: the warm-up, what is measured, and the rest of the queue."""
        warm_s = max(0.3, 0.012 * int(cell.split(":")[1])) if cell.startswith("limit") else 0.3
        return warm_s + self.seconds + 0.06


class Runner:
    """Where cells run and their results go."""

    def __init__(self, card, out, seconds, own=None):
        self.card, self.out = pathlib.Path(card), pathlib.Path(out)
        self.ends = time.monotonic() + seconds
        self.own = own or ROOT / "crates/governor/examples/card/kernels.ptx"
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text("")
        self.log = self.out.with_suffix(".log").open("w")
        self.results, self.notes = [], []
        self.environment()

    def left_s(self):
        return self.ends - time.monotonic()

    def environment(self):
        """Keeps what the driver says of the device and its clocks now."""
        asked = "name,driver_version,clocks.sm,clocks.max.sm,temperature.gpu,power.draw,clocks_event_reasons.active"
        try:
            said = subprocess.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
            self.keep({"environment": said.stdout.strip(), "asked": asked})
        except (OSError, subprocess.TimeoutExpired) as error:
            self.keep({"environment": None, "error": str(error)})

    def note(self, words):
        """Something that is not as it should be, kept with the results."""
        print(words, file=sys.stderr, flush=True)
        self.keep({"note": words})
        self.notes.append(words)

    def keep(self, result):
        with self.out.open("a") as file:
            file.write(json.dumps(result) + "\n")

    def run(self, group):
        """Runs a group. Returns its results so far as they came."""
        cells, results = list(group.cells), []
        while cells:
            wanted = START_S + group.cell_s(cells[0])
            if self.left_s() < wanted:
                self.note(f"no time for {group.workload} {' '.join(group.flags)}: {len(cells)} cells from {cells[0]} on")
                break
            came = self._process(group, cells)
            results += came
            # The cell at which it stopped is left out.
            cells = cells[len(came) + 1:] if len(came) < len(cells) else []
        self.results += results
        return results

    def _process(self, group, cells):
        words = [self.card, "--workload", group.workload, "--kernels", ROOT / "bench/kernels", "--own", self.own,
                 "--seconds", str(group.seconds), *group.flags, *cells]
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=self.log, text=True,
                                   cwd=ROOT, start_new_session=True)
        lines = queue.Queue()

        def read():
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        came, said = [], "it ended"
        try:
            while len(came) < len(cells):
                next_s = group.cell_s(cells[len(came)])
                # A held program may have to pay for what it has just launched, and a queue to drain.
                patience_s = min(START_S + 4 * next_s + 15, max(self.left_s(), 1.0))
                line = lines.get(timeout=patience_s)
                if line is None:
                    break
                result = json.loads(line)
                if "cell" in result:
                    result |= {"workload": group.workload, "flags": group.flags}
                    came.append(result)
                elif "stuck" in result:
                    said = "nothing ended any more"
                self.keep(result)
        except queue.Empty:
            said = "it said nothing for too long"
        except ValueError as error:
            said = f"it said what is no JSON: {error}"
        if len(came) < len(cells):
            self._end(process)
            self.note(f"{group.workload} {cells[len(came)]}: {said}, exit status {process.returncode} ({self.log.name})")
        else:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._end(process)
        return came

    @staticmethod
    def _end(process):
        try:
            process.wait(timeout=1)  # It may be about to end by itself, with a status that says why.
        except subprocess.TimeoutExpired:
            process.kill()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                pass


def card_of(asked):
    """The program: as asked, else where it is built."""
    if asked:
        return pathlib.Path(asked)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    card = target / "release/examples/card"
    if not card.is_file():
        sys.exit(f"{card} is not there: cargo build --release -p cuota-governor --example card, or name it with --card")
    return card


def median(values):
    """The middle one, None of none."""
    values = sorted(value for value in values if value is not None)
    if not values:
        return None
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def shown(value, form):
    """A value for a table."""
    return "-" if value is None else format(value, form)
