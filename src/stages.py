"""The stages that take a config from its data to its submission, what each has to do, and how long the rest will take.

for script, *arguments in list_stages(config): ...
"""

from artifacts import PATCHES
from config import Config

SHORTEST = 20  # seconds: a stage that was done already takes fewer, and tells nothing


def list_stages(config: Config) -> list[list[str]]:
    """Every stage as its script and its own arguments, e.g. ["train.py", "--round", "1"].

    Folds are not spelled out: train.py and predict.py work through all of them, or on one with --fold.
    """
    stages = [["prepare.py"], ["make_folds.py"]]
    for number, one in enumerate(config.rounds):
        chosen = ["--round", str(number)]
        if one.pseudo is not None:
            stages.append(["make_pseudo_labels.py", *chosen])
        stages += [["train.py", *chosen], ["predict.py", *chosen]]
    stages += [["ensemble.py"], ["evaluate.py"]]
    if config.data.test or config.data.labels.without_label == "test":
        stages.append(["make_submission.py"])
    return [*stages, ["make_report.py"]]


def stage_work(config: Config, stage: list[str]) -> float:
    """Steps of a training, or epochs times how many images stand beside a labelled one; 1 for any other stage."""
    if stage[0] != "train.py":
        return 1.0
    one = config.rounds[int(stage[-1])]
    others = sum(part.share for part in (one.pseudo, one.consistency) if part is not None)
    return one.train.epochs * (one.train.steps_per_epoch or 1.0 / max(0.1, 1.0 - others))


def needed_stores(config: Config, round: int) -> list[tuple[str, bool]]:
    """The `(split, with TTA)` stores of a round that some later stage reads.

    Every round's plain predictions are scored where there are labels, and those of centre crops where asked for.
    Teachers predict the pool; the models of the ensemble predict with TTA where the config asks for it.
    """
    hidden = config.data.solution_of
    labels = config.data.labels
    known = config.data.solution or (labels.keep_test if hidden == "test" else True)
    scored = ["oof"] + ([hidden] if known else [])
    stores = {(split, False) for split in scored}
    if config.predict.patch:
        stores |= {(split + PATCHES, False) for split in scored}
    for later, one in enumerate(config.rounds):
        if one.pseudo and (later == round + 1 or (later > round and one.pseudo.teachers == "all")):
            stores |= {(split, one.pseudo.tta) for split in ("oof", *one.pseudo.pool)}
    if round == len(config.rounds) - 1 or config.ensemble.rounds == "all":
        stores |= {(split, config.predict.augments) for split in (*scored, "test")}
    return sorted(stores)


def time_left(stages: list[tuple[float, str]], taken: list[float]) -> str:
    """Words for the time that the stages after the first `taken` seconds will need; "" where nothing is known.

    `stages` are each one's work and script. A script's stages take as long for the same work; where some to come have
    no like among those that ran, it will be more.
    """
    work: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for (amount, script), time in zip(stages[: len(taken)], taken, strict=True):
        if time >= SHORTEST:
            work[script] = work.get(script, 0.0) + amount
            seconds[script] = seconds.get(script, 0.0) + time
    rest = stages[len(taken) :]
    known = [amount * seconds[script] / work[script] for amount, script in rest if script in work]
    if not known:
        return ""
    hours, minutes = divmod(max(1, round(sum(known) / 60)), 60)
    shown = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{'about' if len(known) == len(rest) else 'more than'} {shown} left"
