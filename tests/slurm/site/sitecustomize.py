"""First on a job's PYTHONPATH: its runs train by the stub of tests/runs, and silence ends sooner.

All else is real: the command line, the worker, the run folder, Slurm.
"""

import os
import sys
import time

if os.environ.get("VEXP_STUB") and "_run" in sys.argv[1:] + getattr(sys, "orig_argv", []):
    sys.path.append(os.environ["VEXP_STUB"])  # behind the snapshot of the code
    import vexp.runs.heartbeat as heartbeat

    heartbeat.DEFAULT = heartbeat.Timing(
        interval_s=0.3, expiry_s=float(os.environ.get("VEXP_EXPIRY_S", "4")), poll_s=0.1
    )
    from tests.runs import stub_training

    fast, held = stub_training.pause, os.environ.get("VEXP_HOLD", "")
    done = 0

    def pause() -> None:
        """A few steps, then a crawl for as long as a file is there: to be disturbed meanwhile."""
        global done
        done += 1
        fast()
        end = time.monotonic() + float(os.environ["VEXP_CRAWL_S"])
        while done > 8 and os.path.exists(held) and time.monotonic() < end:
            time.sleep(0.05)

    if held:
        stub_training.pause = pause
    stub_training.install()
