"""Pruning after training: whole layers and kinds of matrix (``structured.csv``), and entries by magnitude
(``unstructured.csv``), for LoRA, CopRA and the baselines: ``python experiments/pruning.py`` writes both."""

from common import adapters, arguments, bench, headline, reported, row, write
from tqdm.auto import tqdm

from copra_lab.prune import PRESETS, keep, sparsify

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy")
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)


def main() -> None:
    a = arguments(__doc__).parse_args()
    runs = headline(a.tasks or reported())
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {t: bench(clip, t, "test") for t in {r.task for r in runs}}
    structured, unstructured = [], []
    for run, adapter in tqdm(found.items(), desc="pruning"):
        accuracy = benches[run.task].accuracy
        structured += [row(run, "all", accuracy(adapter)), row(run, "none", accuracy())]
        structured += [row(run, f"layers {p}", accuracy(keep(adapter, p))) for p in PRESETS]
        structured += [row(run, f"only {k}", accuracy(keep(adapter, kinds=k))) for k in "qkv"]
        for of in ("factors", "delta"):
            unstructured += [row(run, s, accuracy(sparsify(adapter, s, of)), entries=of) for s in SPARSITIES]
    if not a.tasks:
        write("structured.csv", COLUMNS, structured)
        write("unstructured.csv", (*COLUMNS, "entries"), unstructured)


if __name__ == "__main__":
    main()
