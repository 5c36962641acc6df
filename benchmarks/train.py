"""How fast a worker trains: milliseconds a step, beside torch with one thread where torch is installed by hand.

    python3 run.py bench train [--model mlp-2nn --batch 10 [--privacy record]] [--steps 300] [--untuned] [--seed 0]

Real workers, as the daemon starts them, on made-up rows that a random linear teacher has labelled. Three starts are
timed: with an empty cache (compile_s), with the compiled kernels but no plan (warm_start_s), with the plan
(captured_start_s). Blocks of steps alternate with blocks of torch's, the fastest block of each counts. With privacy
"record" a step is one of DP-SGD, its rows and noise drawn for it, and the blocks beside it are those of a plain worker
(plain_ms). No kernel search is shipped, so `--untuned` changes nothing yet: tuned is false and untuned_ms null in every
row. Exit 1 when a loss does not fall.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from discod.train.task import DataSpec, ModelSpec, PrivacySpec, TaskSpec, TrainingSpec
from discod.train.worker import Job, Worker, open_worker
from discod.train.worker_process import NICE

ROWS = 10_000
BLOCKS = 6
CLASSES = 10
ALL = (
    ("mlp", 32, "none"),
    ("mlp-2nn", 10, "none"),
    ("mlp-2nn", 32, "none"),
    ("mlp-2nn", 64, "none"),
    ("lenet", 32, "none"),
    ("mlp", 128, "record"),
    ("mlp-2nn", 32, "record"),
    ("lenet", 32, "record"),
)
HIDDEN = (32,)  # of mlp: the digits' 64-32-10
NOISE = 1.0  # multiplier: as fast as any other

Baseline = Callable[[int], Awaitable[float]]  # trains so many steps, returns the seconds they took


def task_for(model: str, batch: int, seed: int, privacy: str = "none") -> TaskSpec:
    shape = (8, 8) if model in ("logreg", "mlp") else (28, 28)
    return TaskSpec(
        name="bench",
        data=DataSpec(classes=CLASSES, shape=shape, dtype="uint8", high=(255.0,)),
        model=ModelSpec(model, HIDDEN if model == "mlp" else ()),  # type: ignore[arg-type]
        seed=seed,
        training=TrainingSpec(learning_rate=0.05, batch_size=batch, validation_split=0.0),
        privacy=PrivacySpec("record", noise_multiplier=NOISE) if privacy == "record" else PrivacySpec(),
    )


def write_rows(path: Path, task: TaskSpec) -> None:
    random = np.random.default_rng(task.seed)
    inputs = random.integers(0, 256, (ROWS, *task.data.shape), np.uint8)
    teacher = random.standard_normal((task.data.features, CLASSES))
    labels = ((inputs.reshape(ROWS, -1) / 255.0 - 0.5) @ teacher).argmax(axis=1)
    np.savez(path, x=inputs, y=labels)


def torch_baseline(task: TaskSpec, path: Path) -> Baseline | None:
    """The same model and batch size in torch, one thread; None where torch is not installed."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(1)
    torch.manual_seed(task.seed)
    rows = np.load(path)
    inputs, labels = torch.from_numpy(rows["x"]), torch.from_numpy(rows["y"])
    network = torch_network(torch.nn, task)
    optimizer = torch.optim.SGD(network.parameters(), task.training.learning_rate)
    order = torch.randperm(ROWS)[: ROWS // task.batch_size * task.batch_size].reshape(-1, task.batch_size)

    async def train(steps: int) -> float:
        start = time.perf_counter()
        for step in range(steps):
            chosen = order[step % len(order)]
            optimizer.zero_grad()
            logits = network((inputs[chosen].float() / 255.0).unsqueeze(1))  # (B, 1, h, w)
            torch.nn.functional.cross_entropy(logits, labels[chosen]).backward()
            optimizer.step()
        return time.perf_counter() - start

    return train


def torch_network(nn: Any, task: TaskSpec) -> Any:
    layers, features = [], task.data.features
    if task.model.name == "lenet":
        for before, after in ((1, 6), (6, 16)):
            layers += [nn.Conv2d(before, after, 5), nn.ReLU(), nn.MaxPool2d(2)]
        features = 16 * 4 * 4
    layers.append(nn.Flatten())
    widths = {"mlp": HIDDEN, "mlp-2nn": (200, 200), "lenet": (120, 84)}.get(task.model.name, ())
    for before, after in zip((features, *widths), (*widths, CLASSES), strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


async def started(job: Job, cache: Path) -> float:
    """Seconds from nothing to a worker that can train."""
    start = time.perf_counter()
    async with open_worker(job, cache=cache):
        return time.perf_counter() - start


@asynccontextmanager
async def plain_baseline(task: TaskSpec, path: Path, cache: Path) -> AsyncIterator[Baseline]:
    """The same without privacy, in a worker of its own."""
    plain = msgspec.structs.replace(task, privacy=PrivacySpec())
    async with open_worker(Job(plain, str(path)), cache=cache) as worker:

        async def train(steps: int) -> float:
            return (await worker.train(steps)).seconds

        yield train


async def steps(worker: Worker, baseline: Baseline | None, count: int) -> tuple[float, float | None, bool]:
    """(ms a step, the baseline's or null, whether the loss fell): alternating blocks, the fastest of each."""
    ours, theirs = [], []
    first = (await worker.evaluate("train")).loss
    block = max(1, count // BLOCKS)
    for _ in range(BLOCKS):
        ours.append((await worker.train(block)).seconds)
        if baseline is not None:
            theirs.append(await baseline(block))
    fell = (await worker.evaluate("train")).loss < first
    return min(ours) / block * 1e3, (min(theirs) / block * 1e3 if theirs else None), fell


def peak_rss_mb(pid: int) -> float | None:
    """The most memory the process has had, in MB of 10^6 bytes; null where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)


async def measure(model: str, batch: int, privacy: str, count: int, seed: int) -> tuple[dict[str, Any], bool]:
    """One row of the result, and whether the training was right."""
    task = task_for(model, batch, seed, privacy)
    with tempfile.TemporaryDirectory() as directory:
        path, cache = Path(directory) / "rows.npz", Path(directory) / "cache"
        write_rows(path, task)
        job = Job(task, str(path))
        compile_s = await started(job, cache)
        shutil.rmtree(cache / "plans")
        warm_s = await started(job, cache)
        captured_s = await started(job, cache)
        async with AsyncExitStack() as stack:
            worker = await stack.enter_async_context(open_worker(job, cache=cache))
            if task.is_private:
                baseline: Baseline | None = await stack.enter_async_context(plain_baseline(task, path, cache))
            else:
                baseline = torch_baseline(task, path)
            ours, theirs, fell = await steps(worker, baseline, count)
            peak = peak_rss_mb(worker.pid)
    plain, torch = (theirs, None) if task.is_private else (None, theirs)
    row = {
        "tool": "discod",
        "bench": "train",
        "seed": seed,
        "load1": round(os.getloadavg()[0], 2),
        "model": model,
        "batch": batch,
        "privacy": privacy,
        "tuned": False,
        "ms_per_step": round(ours, 4),
        "untuned_ms": None,
        "plain_ms": plain and round(plain, 4),
        "torch_ms": torch and round(torch, 4),
        "ratio": torch and round(ours / torch, 3),
        "compile_s": round(compile_s, 2),
        "warm_start_s": round(warm_s, 2),
        "captured_start_s": round(captured_s, 2),
        "peak_rss_mb": peak and round(peak, 1),
    }
    return row, fell


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=["logreg", "mlp", "mlp-2nn", "lenet"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--privacy", choices=["none", "record"], default="none", help="of --model")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--untuned", action="store_true", help="without kernel search; none is shipped")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.nice(NICE)  # as workers are, so that torch has no better place in the queue
    rows = []
    for model, batch, privacy in [(chosen.model, chosen.batch, chosen.privacy)] if chosen.model else ALL:
        print(f"{model}, batches of {batch}, privacy {privacy} ...", file=sys.stderr)
        rows.append(trio.run(measure, model, batch, privacy, chosen.steps, chosen.seed))
    for row, _ in rows:
        print(json.dumps(row))
    return 0 if all(fell for _, fell in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
