"""Hydra's launcher for SLURM, which waits for all jobs of a sweep, also if SLURM ends some of them."""

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititLauncher
except ImportError:  # it is an extra
    SubmititLauncher = None

if SubmititLauncher is not None:
    from collections.abc import Sequence

    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobReturn

    class SlurmLauncher(SubmititLauncher):  # type: ignore[misc] # it has no types
        """Submits a sweep as one array of jobs, as its base does, and waits for the end of each of them."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Run jobs, and write ``error.txt`` into the folder of each that SLURM has ended for good.

            Args:
                job_overrides: The overrides of each job.
                initial_job_idx: The number of the first one.
            """
            from advnas_lightning.cli.slurm import submit, wait_for_all

            calls = [
                (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
                for number, overrides in enumerate(job_overrides, start=initial_job_idx)
            ]
            jobs = submit(self, calls, self.params)
            return wait_for_all(dict(enumerate(jobs, start=initial_job_idx)), self.config.hydra.sweep.dir)
