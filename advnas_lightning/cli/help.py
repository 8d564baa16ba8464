"""What ``advnas --help`` prints."""

from __future__ import annotations

from advnas_lightning.cli.commands import COMMANDS

TEXT = """\
advnas searches a network's architecture: on one of its tasks, or on a task of your own, with any of its strategies.

usage: advnas [NAME=VALUE ...]           run a search, and write its files into outputs/<task>/<strategy>/<date>_<time>
       advnas -m NAME=VALUE,VALUE ...    run a sweep, into multirun/<date>_<time>
       advnas COMMAND ...                one of the commands below; advnas COMMAND --help says more

examples:
  advnas                                                     search the toy task with AdvantageNAS, in seconds
  advnas strategy=gdas task=ptb seed=1                       search a recurrent cell for Penn Treebank with GDAS
  advnas -m strategy=advantage,gdas seed=0,1,2 launcher=joblib    compare strategies, as many jobs as there are cores
  advnas hydra.run.dir=RUN ckpt_path=last                    go on with the run in the folder RUN

commands:
{commands}

groups (the first choice is the default):
  strategy    advantage, counterfactual, reinforce, enas, parsec, proxylessnas, gdas, darts, snas, nasp, drnas,
              random, and fixed, which trains a found architecture: strategy.genotype=RUN
  task        toy: find a teacher's filters; cifar10: NAS-Bench-201's cell; ptb: a recurrent cell for Penn Treebank
  preset      paper, or authors_code: what the authors' released code does where it departs from the paper
  experiment  fig1, table2, table3, table4: the paper's; cifar10_small, table2_small, table3_small, table4_small:
              shrunk to two CPU cores
  trainer     default, cpu, gpu, ddp
  logger      csv, tensorboard, wandb, mlflow: each beside metrics.csv
  launcher    of a sweep's jobs: joblib, submitit_local, submitit_slurm, ray; without one they run one by one

settings that matter (--cfg job prints all of them with their values):
  seed=0                         decides the initial weights, the data's order, dropout and the draws
  select=null                    the architecture to report: argmax or process_best; null is the strategy's choice
  trainer.max_epochs=N           how long to train; also trainer.devices, precision, limit_train_batches
  task.data.root=DIR             where the data are; null downloads them
  task.table=nasbench201         for cifar10: the table that scores the found cells, or TABLE.csv
  task.zero_op=false             for cifar10: whether an edge may also do nothing
  task.optimization.warmup_epochs=N         epochs in which the architecture parameters stay
  task.optimization.architecture_optimizer.lr=X     their learning rate; weight_optimizer.lr that of the weights
  strategy.NAME=VALUE            an option of the strategy, see below
  retrain=false                  whether to train what was found from scratch when the search is over
  refine=null                    neighbours or finalists: short trainings decide after the search, for at most
                                 refine_minutes=X, as advnas refine does
  export=null                    onnx, pt2, torchscript, source, or a list such as [onnx,source]: writes what was found,
                                 or with retrain=true what was trained, into such files, as advnas export does
  cost=null                      params, macs, latency, memory: adds what an architecture costs to the loss,
                                 with the weight cost_penalty=X or below the budget cost_budget=X; cost_file=FILE
                                 takes the cost from a file of advnas cost measure
  beta_decay=0                   the final factor of beta-decay, which keeps theta small; it rises over the search
  sampling=one                   sandwich: each weight step runs the widest, the narrowest and sandwich_draws=2 random
                                 networks of elastic sizes
  teacher=null                   widest: the widest network of a sandwich teaches the others; or {{_target_: CLASS}}
  warmup_sizes=all               shrinking: the warm-up begins with the widest sizes alone
  calibrate=10                   training batches on which running statistics, such as BatchNorm's, are computed for
                                 the architecture that is evaluated; 0 leaves them as they are
  offload=false                  whether to keep the candidates' weights in host memory
  ckpt_path=null                 last: go on from the newest checkpoint in the run's own folder; or a folder or file
  checkpoint.every_n_minutes=5   how often to save within an epoch
  threads=N                      CPU threads
  optimized_metric=null          the result that a run returns to hydra/sweeper=optuna, for example test/loss
  hydra.run.dir=DIR, hydra.sweep.dir=DIR    the folder of a run, of a sweep

options of the strategies (strategy.NAME=VALUE; the first value is the default):
  advantage       advantage=taylor|exact  baseline=none|ema  zero_op=paper|authors_code|none  gamma=0.05
  counterfactual  advantage=taylor|exact  mix=0  mix_end=null  geometry=softmax|mirror  zero_op=none|paper  gamma=0.05
  reinforce       baseline_init=first|zero  baseline_update=after|before  gamma=0.05
  enas            those of reinforce  hidden_size=64  entropy_weight=1e-4  temperature=1.0  tanh_constant=null
  parsec          samples=8  scale=batch|NUMBER  weighting=importance|authors_code
  proxylessnas    gates=two_hot|binary
  gdas            inactive=ones|none  rao=null|NUMBER  tau_max=10  tau_min=0.1
  darts           second_order=false|true  geometry=softmax|mirror
  snas            tau_max=1  tau_min=1e-3
  nasp            projection=affine|clip
  drnas           kl=1e-3
  fixed           genotype=RUN, a file genotype.json, or a cell of NAS-Bench-201 as a text

also: --version, --cfg job, --config-dir DIR (settings of your own), --hydra-help"""


def help_text() -> str:
    """The text of ``advnas --help``.

    Example:
        >>> print(help_text().partition(" ")[0])
        advnas
    """
    return TEXT.format(commands="\n".join(f"  {name:<10}  {each.meaning}" for name, each in COMMANDS.items()))
