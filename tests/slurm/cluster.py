"""A SLURM cluster of one node on this machine: munged, slurmctld and slurmd, with all of their files in one folder."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.processes import free_ports, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # where the daemons are, which is not in every user's PATH
PATIENCE = 60.0  # seconds until a daemon has answered

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is queued again waits so many seconds. SLURM's own value is 120.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=preempt_youngest_first
KillWait=20
JobRequeue=0
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=searches Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing_programs() -> list[str]:
    """What a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if find_program(name) is None]


def find_program(name: str) -> str | None:
    """The path of a program or of a daemon."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))


class SlurmCluster:
    """Starts the daemons in a context, and ends them and all jobs after it.

    Args:
        folder: An empty folder, with a path of at most 80 characters, since a socket is in it.
        cores: How many jobs of one core the node runs at a time, whatever cores the machine has.
        grace: How many seconds a job has to end in that is told that a job of the partition ``urgent`` takes its place.
    """

    def __init__(self, folder: Path, *, cores: int = 2, grace: int = 20) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._host = socket.gethostname().partition(".")[0]
        controller_port, node_port = free_ports(2)
        folder.chmod(0o711)  # or munged refuses to have its socket there
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=self._host,
                user=pwd.getpwuid(os.getuid()).pw_name,
                folder=folder,
                cores=cores,
                grace=grace,
                controller_port=controller_port,
                node_port=node_port,
            )
        )
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)

    def __enter__(self) -> SlurmCluster:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        try:
            self._start("munged", "--foreground", *(f"--{key}={self.folder / name}" for key, name in files.items()))
            self._wait_until(lambda: (self.folder / "munge.socket").exists(), "munged")
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D", "-N", self._host)
            self._wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "an idle node")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints, or an empty text if it fails or does not answer."""
        try:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def logs(self) -> str:
        """What the daemons have logged."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def _start(self, name: str, *arguments: str) -> None:
        path = find_program(name)
        assert path is not None, name
        with (self.folder / f"{name}.out.log").open("wb") as log:
            daemon = subprocess.Popen([path, *arguments], env=self.environment, stdout=log, stderr=log)
        self._daemons.append(daemon)

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for a daemon.

        Raises:
            RuntimeError: A daemon has ended.
            TimeoutError: There is no answer.
        """

        def look() -> bool:
            if any(daemon.poll() is not None for daemon in self._daemons):
                raise RuntimeError(f"a daemon of SLURM has ended:\n{self.logs()}")
            return is_so()

        wait_until(look, what, seconds=PATIENCE)

    def _stop(self) -> None:
        user = f"--user={pwd.getpwuid(os.getuid()).pw_name}"
        self.ask("scancel", user, "--state=PENDING")
        self.ask("scancel", user, "--signal=KILL")
        with suppress(TimeoutError):  # or the jobs would outlive the daemons
            wait_until(lambda: not self.ask("squeue", "--noheader"), "the end of all jobs", seconds=30)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
