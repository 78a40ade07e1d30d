"""``copra-lab export`` and ``copra-lab import``: adapters for and from PEFT and transformers."""

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from copra_lab.cli import arguments
from copra_lab.cli.command import Report, verb


@verb("copra-lab export digits/lora-seed-0 --out digits-peft --clip-out clip-hf")
def export(
    adapter: arguments.AdapterName,
    out: arguments.Out,
    clip_out: Annotated[
        Path | None,
        Option(
            help="Also write the CLIP it belongs to into this folder, as transformers' CLIPModel, "
            "with its tokenizer and preprocessing."
        ),
    ] = None,
    merged: Annotated[
        bool,
        Option(
            "--merged",
            help="Write a CLIPModel with the adapter merged into it, in place of a PEFT folder.",
        ),
    ] = False,
    clip: arguments.ClipName = None,
    overwrite: arguments.Overwrite = False,
) -> Report:
    """Write an adapter as a folder that peft loads, or merged into a Hugging Face CLIP."""
    from copra_lab.adapters.adapter import merged_into
    from copra_lab.adapters.peft_folder import WEIGHTS, save_adapter
    from copra_lab.models.hugging_face import save_hugging_face
    from copra_lab.models.loading import load_clip

    if merged and clip_out and clip_out.resolve() == out.resolve():
        raise BadParameter("two CLIPModels need two folders", param_hint="--clip-out")
    arguments.check_free(out, overwrite, WEIGHTS, "model.safetensors")
    if clip_out:
        arguments.check_free(clip_out, overwrite, "model.safetensors", option="--clip-out")
    base = load_clip(clip)
    of = arguments.load_adapter(adapter, base)
    model = f'transformers.CLIPModel.from_pretrained("{out if merged else clip_out or "the CLIP"}")'
    if merged:
        save_hugging_face(merged_into(base, of), out)
        use = model
    else:
        save_adapter(of, out)
        use = f'peft.PeftModel.from_pretrained({model}, "{out}")'
    if clip_out:
        save_hugging_face(base, clip_out)
    document = {
        "adapter": adapter,
        "hash": of.hash,
        "base": base.hash,
        "folder": str(out),
        "merged": merged,
        "clip": str(clip_out) if clip_out else None,
    }
    return Report(document, f"written to {out}; in Python: {use}")


@verb("copra-lab import digits-peft --out digits-mine --task digits", name="import")
def import_(
    folder: Annotated[
        str,
        Argument(
            help="A LoRA folder as peft writes it, hf-hub:owner/name, or a file of CLIP-LoRA, "
            "kohya or diffusers."
        ),
    ],
    out: arguments.Out,
    task: Annotated[
        str | None,
        Option(help="Measure on it: a task or a folder of images.", show_default="do not measure"),
    ] = None,
    *,
    images: arguments.ImageFolder,
    precision: arguments.Precision = "auto",
    clip: arguments.ClipName = None,
    overwrite: arguments.Overwrite = False,
) -> Report:
    """Import a LoRA adapter that another tool wrote for the same CLIP.

    It is checked against the sites and shapes of the CLIP.
    """
    from dataclasses import replace

    from copra_lab.adapters.loading import load_adapter as load
    from copra_lab.adapters.peft_folder import WEIGHTS, save_adapter
    from copra_lab.models.loading import load_clip

    arguments.check_free(out, overwrite, WEIGHTS)
    base = load_clip(clip)
    found = load(folder, base)
    # From here on it is an adapter of this base: another CLIP of the same shape will be refused.
    adapter = replace(found, base=base.hash, provenance={"clip": base.name, **found.provenance})
    bench = (
        arguments.load_bench(base, [adapter], task, precision=precision, images=images.options)
        if task
        else None
    )
    save_adapter(adapter, out)
    document = {
        "folder": str(out),
        "hash": adapter.hash,
        "base": adapter.base,
        "rank": adapter.rank,
        "sites": len(adapter),
        "parameters": adapter.parameters,
        "task": None,
        "test": None,
    }
    words = f"{len(adapter)} matrices of rank up to {adapter.rank} saved in {out}"
    if bench:
        accuracy = bench.accuracy(adapter)
        document |= {"task": bench.task.name, "test": arguments.numbers(accuracy)}
        words += f"\naccuracy {accuracy}, {arguments.measured_on(bench)}"
    return Report(document, words)
