"""What exact ranks cost: `python scripts/bench_retrieval.py [--pictures 5000] [--texts 25000] [--width 512]`.

Random features, of pictures that find their texts and of pictures that do not, ranked as the evaluator does and by a
naive loop: the whole matrix of similarities in float64, every row and column sorted. Seconds, the memory that each
takes at most besides the features, and whether all ranks agree. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.evaluation.ranks import ranks

log = logging.getLogger("bench_retrieval")
NOISE = {"found": 1.5, "lost": 20.0}  # of texts around their pictures


def features(pictures: int, texts: int, width: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (P, E) and texts (N, E) of length 1, and the picture that each text belongs to."""
    draw = torch.Generator().manual_seed(0)
    owner = torch.arange(texts) * pictures // texts
    images = F.normalize(torch.randn(pictures, width, generator=draw), dim=-1)
    around = torch.randn(texts, width, generator=draw).mul_(noise / width**0.5).add_(images[owner])
    return images, F.normalize(around, dim=-1), owner


def naive(pictures: Tensor, texts: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `ranks`: one row and one column of the whole matrix after the other."""
    similar = pictures.double() @ texts.double().T
    of_pictures = [int((owner[row.argsort(descending=True)] == i).nonzero()[0]) for i, row in enumerate(similar)]
    of_texts = [
        int((column.argsort(descending=True) == i).nonzero()[0]) for i, column in zip(owner, similar.T, strict=True)
    ]
    return torch.tensor(of_pictures), torch.tensor(of_texts)


def peak_mb() -> float:
    """Highest memory use of this process so far in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(options: argparse.Namespace) -> None:
    """Prints seconds, memory, recall at 1 both ways and a number that any other rank would change."""
    given = features(options.pictures, options.texts, options.width, NOISE[options.kind])
    ranks(given[0][:4], given[1][:4], torch.arange(4))  # what is loaded when first used
    before, wall, processor = peak_mb(), time.monotonic(), time.process_time()
    found = (ranks if options.way == "everclip" else naive)(*given)
    facts = {
        "seconds": time.monotonic() - wall,
        "processor": time.process_time() - processor,
        "memory": peak_mb() - before,
        "recall": [100 * float((each == 0).double().mean()) for each in found],
        "ranks": [int((each * torch.arange(1, len(each) + 1)).sum()) for each in found],
    }
    sys.stdout.write(json.dumps(facts))


def main() -> None:
    """Compares both ways on both kinds of features."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--texts", type=int, default=25000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--kind", choices=NOISE)
    parser.add_argument("--way", choices=["everclip", "naive"])
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    log.info("%d pictures, %d texts, width %d, %d threads", *list(vars(options).values())[:3], torch.get_num_threads())
    for kind in NOISE:
        facts = {}
        for way in ("everclip", "naive"):
            command = [sys.executable, *sys.argv, "--kind", kind, "--way", way]
            facts[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            line = "%-5s  %-8s  %7.1f s (%.1f s of processors)  %6.0f MB  R@1 i2t %6.2f  t2i %6.2f"
            numbers = (facts[way][key] for key in ("seconds", "processor", "memory"))
            log.info(line, kind, way, *numbers, *facts[way]["recall"])
        log.info("%-5s  ranks %s", kind, "agree" if facts["everclip"]["ranks"] == facts["naive"]["ranks"] else "DIFFER")


if __name__ == "__main__":
    main()
