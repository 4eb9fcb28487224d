"""Other libraries in processes of their own: their packages must not meet ours, or each other.

The worker answers a line "METHOD IMAGES TARGETS" on stdin, when the call is done, with the MiB by
which the peak memory of its process has grown since it was ready.
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path


class Worker:
    """A script of this folder that calls `serve`."""

    def __init__(self, script: str, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name(script)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"OMP_WAIT_POLICY": "passive"},  # it must not spin while we run
        )
        self.script = script
        self.answer()

    def run(self, method: str, images: int, targets: int = 1) -> float:
        """One call; the growth of peak memory in MiB, of this and all calls before it."""
        print(method, images, targets, file=self.process.stdin, flush=True)
        return float(self.answer())

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.script} failed: are requirements-dev.txt installed?")
        return line

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()


def peak_resident() -> int:
    """Bytes of the high-water mark of this process's resident memory.

    Where there is no /proc, of its parent too, from before it was started.
    """
    if Path("/proc/self/status").exists():
        return high_water("self")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def high_water(process: int | str) -> int:
    """The same of another process; 0 if it has ended. OSError if there is no such process."""
    status = Path(f"/proc/{process}/status").read_text()
    found = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * int(found[0].split()[1]) if found else 0


def serve(call: Callable[[str, int, int], object]) -> None:
    """What the script does, warmed up, to the end of stdin: `call(method, images, targets)`."""
    before = peak_resident()
    print("ready", flush=True)
    for line in sys.stdin:
        method, images, targets = line.split()
        with redirect_stdout(sys.stderr):  # where a line is an answer
            call(method, int(images), int(targets))
        print((peak_resident() - before) / 2**20, flush=True)
