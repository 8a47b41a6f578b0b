"""First on a job's PYTHONPATH: its runs train by the stub of tests/runs, and silence ends sooner.

All else is real: the command line, the worker, the run folder, Slurm.
"""

import os
import sys

if os.environ.get("VEXP_STUB") and "_run" in sys.argv[1:] + getattr(sys, "orig_argv", []):
    sys.path.insert(0, os.environ["VEXP_STUB"])
    import vexp.runs.heartbeat as heartbeat

    heartbeat.DEFAULT = heartbeat.Timing(
        interval_s=0.3, expiry_s=float(os.environ.get("VEXP_EXPIRY_S", "4")), poll_s=0.1
    )
    import stub_training

    stub_training.install()
