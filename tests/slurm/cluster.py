"""A throw-away Slurm cluster of several nodes on this machine: no systemd, no containers.

    python tests/slurm/cluster.py FOLDER      start one, print what to export, stop it on Ctrl-C

Each node is a `slurmd` of its own with a port of its own; all on 127.0.0.1, because `srun` within a
job hangs when nodes have different loopback addresses. As root each node also gets a host name of
its own (a UTS namespace), so that processes on two nodes take each other for processes on two
machines. Sizes of nodes are invented; nothing is enforced.

Two partitions: `main`, and `preempt`, whose jobs give way to those of `main`: SIGUSR2, then
`grace_s` seconds, then they are killed and requeued.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm and munge)"
    if os.geteuid() != 0:
        return "the nodes need host names of their own, which only root can give"
    return ""


@dataclass
class Cluster:
    """Started by `start`, ended by `stop`; all it writes is below `folder`."""

    folder: Path
    nodes: int = 3
    cpus: int = 4
    memory_mb: int = 4000
    gpus: int = 1
    grace_s: int = 10
    max_array: int = 101
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """What a client of this cluster has in its environment."""
        return {"SLURM_CONF": str(self.conf), "PATH": _PATH}

    def start(self) -> None:
        for name in ("log", "state", "spool", "dev", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._configure()
        try:
            self._start_munge()
            self.start_controller()
            for name in self.names:
                self.start_node(name)
            until(self.ready, 60, "the nodes did not come up", self.folder / "log")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything that was started: jobs, daemons, and what outlived a crashed daemon."""
        if "slurmctld" in self.daemons:
            with contextlib.suppress(subprocess.SubprocessError):
                self.ask("scancel", "--user", _user(), timeout=10)
                until(lambda: not self.ask("squeue", "-h"), 10)
        for name in [*self.names, "slurmctld", "munged"]:
            self.end(name, signal.SIGTERM)
        for name in self.names:
            self._kill_all_of(name)

    def ask(self, *command: str, timeout: float = 30) -> str:
        """Output of a Slurm command."""
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, timeout=timeout, check=True
        )
        return done.stdout.decode().strip()

    def ready(self) -> bool:
        """Whether every node takes jobs."""
        try:
            states = self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", timeout=5).split()
        except subprocess.SubprocessError:
            return False
        return states[0::2] == self.names and set(states[1::2]) <= {"idle", "mixed", "allocated"}

    # --- faults

    def kill_node(self, name: str) -> None:
        """A machine loses its power: the daemon and all it runs are gone."""
        self.end(name, signal.SIGKILL)
        self._kill_all_of(name)

    def kill_daemon(self, name: str) -> None:
        """SIGKILL of one daemon; the jobs of a node live on without it."""
        self.end(name, signal.SIGKILL)

    def start_node(self, name: str) -> None:
        conf = str(self.conf)
        self._spawn(name, ["slurmd", "-D", "-N", name, "-f", conf], host=name)

    def resume(self) -> None:
        """Nodes that a restarted controller remembers as lost are taken back."""
        for name in self.names:
            with contextlib.suppress(subprocess.SubprocessError):
                self.ask("scontrol", "update", f"nodename={name}", "state=RESUME")

    def start_controller(self) -> None:
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)], host="ctl")
        until(self._answers, 30, "slurmctld does not answer", self.folder / "log")

    def end(self, name: str, number: signal.Signals) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def processes(self, name: str) -> list[int]:
        """Everything that runs in a node's namespace: all of it descends from our daemons."""
        try:
            wanted = (self.folder / f"{name}.uts").read_text()
        except FileNotFoundError:
            return []
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
                if _uts(pid) == wanted]  # fmt: skip

    # --- details

    def _kill_all_of(self, name: str) -> None:
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            return "UP" in self.ask("scontrol", "ping", timeout=5)
        except subprocess.SubprocessError:
            return False

    def _start_munge(self) -> None:
        home = self.folder / "munge"
        (home / "key").write_bytes(os.urandom(128))
        (home / "key").chmod(0o400)
        self._spawn(
            "munged",
            ["munged", "-F", f"--key-file={home}/key", f"--socket={home}/socket",
             f"--pid-file={home}/pid", f"--log-file={home}/log", f"--seed-file={home}/seed"],
        )  # fmt: skip
        until((home / "socket").exists, 10, "munged did not come up", self.folder / "log")

    def _spawn(self, name: str, command: list[str], host: str | None = None) -> None:
        if host is not None:
            script = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
            hosts = str(self.folder / "hosts")
            command = ["unshare", "--uts", "--mount", "sh", "-c", script, hosts, host, *command]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=kept | self.env, start_new_session=True,
            )  # fmt: skip
        self.daemons[name] = daemon
        if host is not None:
            until(lambda: _uts(daemon.pid) not in ("", _uts(os.getpid())), 10, f"no {name}")
            (self.folder / f"{name}.uts").write_text(_uts(daemon.pid))

    def _configure(self) -> None:
        ports = free_ports(self.nodes + 1)
        names = "".join(f"127.0.0.1 {name}\n" for name in ["localhost", "ctl", *self.names])
        (self.folder / "hosts").write_text(names)
        gres = []
        for number in range(self.gpus):
            device = self.folder / "dev" / f"gpu{number}"  # slurmd insists on character devices
            if not device.exists():
                os.mknod(device, 0o020666, os.makedev(1, 3))
            gres.append(f"NodeName=n[1-{self.nodes}] Name=gpu File={device}\n")
        (self.folder / "gres.conf").write_text("".join(gres))
        nodes = [
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} RealMemory={self.memory_mb} Gres=gpu:{self.gpus} State=UNKNOWN"
            for name, port in zip(self.names, ports[1:], strict=True)
        ]
        self.conf.write_text(
            "\n".join([*self._settings(ports[0]), *nodes, *self._partitions(), ""])
        )

    def _settings(self, port: int) -> list[str]:
        home = self.folder
        return f"""\
ClusterName=test
SlurmctldHost=ctl(127.0.0.1)
SlurmctldPort={port}
SlurmUser={_user()}
SlurmdUser={_user()}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge/socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdLogFile={home}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,bf_resolution=10,sched_min_interval=20000
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
KillWait=5
CompleteWait=0
BatchStartTimeout=10
MessageTimeout=10
SlurmctldTimeout=10
SlurmdTimeout=10
MinJobAge=3600
MaxArraySize={self.max_array}
AccountingStorageType=accounting_storage/none""".splitlines()

    def _partitions(self) -> list[str]:
        common = "Nodes=ALL DefaultTime=10 MaxTime=60 State=UP"
        return [
            f"PartitionName=main {common} Default=YES PriorityTier=10 PreemptMode=OFF",
            f"PartitionName=preempt {common} PriorityTier=1 PreemptMode=REQUEUE "
            f"GraceTime={self.grace_s}",
        ]


def until(
    condition: Callable[[], object], timeout_s: float, what: str = "", logs: Path | None = None
) -> bool:
    """Wait until a condition holds. Raises TimeoutError with `what` and the logs' ends if it never
    does; without `what`, returns whether it does.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            if not what:
                return False
            ends = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
                    for path in (sorted(logs.glob("*")) if logs else [])]  # fmt: skip
            raise TimeoutError("\n".join([what, *ends]))
        time.sleep(0.05)
    return True


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _uts(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:
        return ""


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def main() -> int:
    reason = missing()
    if reason or len(sys.argv) != 2:
        print(reason or __doc__)
        return 2
    cluster = Cluster(Path(sys.argv[1]).resolve())
    cluster.start()
    try:
        print(f"export SLURM_CONF={cluster.conf}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
