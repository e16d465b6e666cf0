"""Several processes release what one would, and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dpmix
import rank_worker
from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.types import soft_cross_entropy
from dpmix.data.source import Subset
from dpmix.errors import DpmixError
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.sampling import PoissonSampler
from dpmix.reports.metrics import read_metrics
from dpmix.runs.checkpoint import newest_checkpoint
from dpmix.runs.load import load_run
from dpmix.training.distributed import ALONE, Ranks, is_first_to_fail, start
from dpmix.views import ViewSpec
from pictures import write_class_folders
from rank_worker import SEED, STEPS, N, data, model, plan, trainer, views

WORKER = Path(rank_worker.__file__)
PAGE = Path(__file__).parents[2] / "docs" / "many-processes.md"


# More processes than a machine may have GPUs: these tests are of gloo, on the CPU.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(size, *command):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, "--nproc-per-node", str(size), *map(str, command)], env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of 3 processes ended with, by mode."""
    folder = tmp_path_factory.mktemp("ranks")
    process = torchrun(3, WORKER, folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return {
        mode: [torch.load(folder / f"{mode}-{rank}.pt") for rank in range(3)]
        for mode in ("seeded", "unseeded", "diverge", "mixed up")
    }


def alone(size):
    """The same in one process: each rank's random draws on its stretch, one sum, rank 0's noise."""
    whole, network, optimizer = data(), model(), None
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    drawn = []
    for step in range(STEPS):
        total = [torch.zeros_like(p, dtype=torch.float64) for p in network.parameters()]
        for rank in range(size):
            shard = Subset.of(whole, torch.arange(*Ranks(rank, size).bounds(N)))
            draws = Randomness(SEED, rank).step(step)
            examples = PoissonSampler(plan(), len(shard)).draw(draws.sampling)
            drawn.append(len(examples))
            if len(examples):
                made = views().sample(shard, examples, draws.views, torch.device("cpu"))
                part = clipped_gradient_sum(
                    network, soft_cross_entropy, made.views, made.labels, plan().max_grad_norm
                )
                torch._foreach_add_(total, part.gradients)
        made = GaussianNoise(plan())
        noisy = made.release(total, made.draw(total, Randomness(SEED, 0).step(step).noise))
        for parameter, gradient in zip(network.parameters(), noisy, strict=True):
            parameter.grad = gradient.float()
        optimizer.step()
    return network.state_dict(), drawn


def test_the_same_draws_release_the_same_gradients_as_in_one_process(together):
    ended, size = together["seeded"], len(together["seeded"])
    expected, drawn = alone(size)
    assert 0 in drawn and max(drawn) > 1, "some batch is empty"
    assert [other["drawn"] for other in ended] == [drawn[rank::size] for rank in range(size)]
    for rank in range(size):
        for name, value in expected.items():
            assert torch.equal(ended[rank]["weights"][name], ended[0]["weights"][name])
            assert torch.allclose(ended[rank]["weights"][name], value, atol=1e-5)


def test_without_a_seed_processes_draw_apart_and_end_alike(together):
    first, *others = together["unseeded"]
    for name, value in first["weights"].items():
        assert all(torch.equal(value, other["weights"][name]) for other in others)
        assert not torch.equal(value, together["seeded"][0]["weights"][name])


def test_weights_that_come_to_differ_stop_every_process(together):
    for ended in together["diverge"]:
        assert "rank 1 does not have the weights of rank 0" in ended["error"]
        assert len(ended["drawn"]) < STEPS


def test_another_plan_on_one_process_is_refused_by_all(together):
    for ended in together["mixed up"]:
        assert "rank 1 does not have the plan of rank 0" in ended["error"]


@pytest.mark.parametrize(("examples", "size"), [(13, 3), (5, 5)])
def test_shards_are_disjoint_whole_and_of_nearly_equal_size(examples, size):
    bounds = [Ranks(rank, size).bounds(examples) for rank in range(size)]
    assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, examples)
    assert {stop - start for start, stop in bounds} <= {examples // size, examples // size + 1}

    with pytest.raises(DpmixError, match=f"{examples + 1} processes and fewer training examples"):
        Ranks(1, examples + 1).bounds(examples)


def test_one_process_connects_to_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start() is ALONE and ALONE.is_main
    # It sums and shares nothing, and is its own reference.
    assert trainer(data(), ALONE).step().drawn <= N


def test_a_method_that_joins_examples_is_refused():
    spec = ViewSpec("microbatch-mixup", k_base=2, k_self=2, crop_padding=1)
    network = model()
    with pytest.raises(DpmixError, match="only proven private in one process"):
        dpmix.PrivateTrainer(
            network, data(), plan=replace(plan(), sensitivity_multiplier=2),
            views=replace(views(), spec=spec), ranks=Ranks(0, 2),
            optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        )  # fmt: skip


@pytest.fixture
def command(image_root, tmp_path, quick):
    settings = quick | {
        "data": image_root, "output": tmp_path / "run", "device": "cpu", "steps": 250,
        "eval_every": 50, "method": "self-aug", "cache_dir": tmp_path / "features",
    }  # fmt: skip
    flags = [p for k, v in settings.items() for p in (f"--{k.replace('_', '-')}", str(v))]
    return ["-m", "dpmix", "train", *flags]


def children(process):
    """The training processes of a torchrun, by rank."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "dpmix train" in line]


def test_a_process_that_torchrun_ends_while_it_fails_still_reports_why(monkeypatch):
    def ended_while_asking(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("the store is gone")

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(torch.distributed, "TCPStore", ended_while_asking)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert is_first_to_fail()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_all_with_one_message_and_the_run_goes_on(
    victim, command, tmp_path
):
    if victim:  # a head, whose features each process embeds for its own examples
        place = command.index("--model")
        command[place : place + 2] = ["--backbone", "scatternet", "--backbone-size", "16"]
    process = torchrun(2, *command)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "model.safetensors").exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(children(process)[victim], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("error: another process of this run ended, so all of them stop") == 1, (
        errors
    )
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint.step >= 50 and checkpoint.ranks == 2
    result = dpmix.fit(resume=tmp_path / "run")
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["complete"] and statement["resumed_at"] == [checkpoint.step]


def test_a_users_mistake_is_said_once(command):
    process = torchrun(2, *command, "--method", "mix-diff")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("error: ") == 1 and "--pool" in errors


def line_of_the_page(pattern):
    """The words of the only line of docs/many-processes.md that matches."""
    (line,) = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return line.split()


def test_the_line_of_the_docs_joins_machines(image_root, tmp_path):
    """Two agents, each as on two machines, train one run of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = line_of_the_page(r"^ +(torchrun --nnodes .+ -m dpmix train) \.\.\.$")
    for flag, value in (("--nnodes", "2"), ("--nproc-per-node", "1")):
        words[words.index(flag) + 1] = value
    endpoint = words.index("--rdzv-endpoint") + 1
    assert words[endpoint].startswith("HOST:")
    words[endpoint] = f"localhost:{port}"
    command = [
        sys.executable, "-m", "torch.distributed.run", *words[1:], "--data", str(image_root),
        "--steps", "2", "--expected-batch-size", "8", "--method", "none", "--epsilon", "3",
        "--model", "cnn-small", "--device", "cpu", "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    agents = [
        subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]  # fmt: skip
    try:
        outputs = [agent.communicate(timeout=150)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(outputs)
    statement = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert (statement["processes"], statement["complete"]) == (2, True)
    assert sum("report.html" in one for one in outputs) == 1, outputs  # rank 0 alone prints


def test_a_run_of_persons_from_the_pools_start_is_that_of_one_process(tmp_path):
    """Without noise and with everyone in every step, the number of processes changes nothing."""
    rng = np.random.default_rng(0)
    write_class_folders(tmp_path / "pool", 10, rng)
    write_class_folders(tmp_path / "scans" / "test", 4, rng)
    write_class_folders(tmp_path / "scans" / "train", 15, rng)
    for side in ("train", "test"):
        for file in (tmp_path / "scans" / side).glob("*/*"):
            person = f"{side}{int(file.stem) % 7}"
            file.rename(file.with_name(f"{person}_{file.parent.name}{file.name}"))
    command = [
        "--data", tmp_path / "scans", "--person-pattern", r"(\w+?)_", "--backbone", "scatternet",
        "--backbone-size", "16", "--method", "none", "--pool", tmp_path / "pool", "--epsilon",
        "inf", "--expected-batch-size", "7", "--steps", "3", "--seed", "1", "--cache-dir",
    ]  # fmt: skip
    started = []
    for size in (1, 2):
        folder = tmp_path / f"run{size}"
        flags = [*command, tmp_path / f"features{size}", "--output", folder]
        process = torchrun(size, "-m", "dpmix", "train", *flags)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        stated = json.loads((folder / "privacy.json").read_text())
        assert (stated["examples"], stated["processes"]) == (7, size)
        started.append(load_run(folder).model.head.state_dict())
        assert read_metrics(folder / "metrics.json").start_score > 0.8
    for name, weight in started[0].items():
        assert torch.allclose(weight, started[1][name], atol=1e-4), name
        assert weight.abs().max() > 0
