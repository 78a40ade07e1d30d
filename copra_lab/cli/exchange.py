"""``copra-lab export`` and ``copra-lab import``: adapters for PEFT and transformers, and from them."""

from pathlib import Path
from typing import Annotated

import typer

from copra_lab.cli import given
from copra_lab.cli.frame import Told, verb


@verb("copra-lab export digits/lora-seed-0 --out digits-peft --clip-out clip-hf")
def export(
    adapter: given.AdapterName,
    out: given.Out,
    clip_out: Annotated[
        Path | None,
        typer.Option(help="Also write the CLIP it belongs to into this folder, as transformers' CLIPModel, with its tokenizer and preprocessing."),
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write a CLIPModel with the adapter merged into it, in place of a PEFT folder.")] = False,
    clip: given.ClipName = None,
    overwrite: given.Overwrite = False,
) -> Told:
    """Write an adapter as a folder that peft loads, or merged into a Hugging Face CLIP."""
    from copra_lab.clip import load_clip
    from copra_lab.hf import save_hugging_face
    from copra_lab.lora import merged_into
    from copra_lab.storage import WEIGHTS

    if merged and clip_out and clip_out.resolve() == out.resolve():
        raise typer.BadParameter("of two CLIPModels each needs a folder of its own", param_hint="--clip-out")
    given.check_free(out, overwrite, WEIGHTS, "model.safetensors")
    if clip_out:
        given.check_free(clip_out, overwrite, "model.safetensors", option="--clip-out")
    base = load_clip(clip)
    of = given.load_adapter(adapter, base)
    if merged:
        save_hugging_face(merged_into(base, of), out)
    else:
        of.save(out)
    if clip_out:
        save_hugging_face(base, clip_out)
    if merged:
        use = f'transformers.CLIPModel.from_pretrained("{out}")'
    else:
        use = f'peft.PeftModel.from_pretrained(transformers.CLIPModel.from_pretrained("{clip_out or "the CLIP"}"), "{out}")'
    document = {
        "verb": "export", "adapter": adapter, "hash": of.hash, "base": base.hash, "folder": str(out), "merged": merged,
        "clip": str(clip_out) if clip_out else None,
    }  # fmt: skip
    return Told(document, f"written to {out}; in Python: {use}")


@verb("copra-lab import digits-peft --out digits-mine --task digits", name="import")
def import_(
    folder: Annotated[str, typer.Argument(help="A LoRA folder as peft writes it, hf-hub:owner/name, or a file of CLIP-LoRA, kohya or diffusers.")],
    out: given.Out,
    task: Annotated[str | None, typer.Option(help="Measure on it: a task or a folder of images.", show_default="do not measure")] = None,
    template: given.Template = None,
    splits: given.Splits = True,
    precision: given.Precision = "auto",
    clip: given.ClipName = None,
    overwrite: given.Overwrite = False,
) -> Told:
    """Take in a LoRA adapter that another tool wrote for the same CLIP, held against its sites and shapes."""
    from dataclasses import replace

    from copra_lab.clip import load_clip
    from copra_lab.storage import WEIGHTS
    from copra_lab.storage import load_adapter as load

    given.check_free(out, overwrite, WEIGHTS)
    base = load_clip(clip)
    found = load(folder, base)
    # From here on it is an adapter of this base: another CLIP of the same shape will be refused.
    adapter = replace(found, base=base.hash, provenance={"clip": base.name, **found.provenance})
    bench = given.load_bench(base, [adapter], task, precision=precision, images=given.images(template, splits)) if task else None
    adapter.save(out)
    document = {
        "verb": "import", "folder": str(out), "hash": adapter.hash, "base": adapter.base, "rank": adapter.rank, "sites": len(adapter),
        "parameters": adapter.parameters, "task": None, "test": None,
    }  # fmt: skip
    words = f"{len(adapter)} matrices of rank up to {adapter.rank} saved in {out}"
    if bench:
        accuracy = bench.accuracy(adapter)
        document |= {"task": bench.task.name, "test": given.numbers(accuracy)}
        words += f"\naccuracy {accuracy}, {given.measured_on(bench)}"
    return Told(document, words)
