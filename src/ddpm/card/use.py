"""How to use an exported model: commands and code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ddpm.card.front import task_of
from ddpm.guide import NoisyClassifier
from ddpm.pipeline import Pipeline


def use(folder: Path, model: Pipeline | NoisyClassifier, to: str) -> str:
    """Commands and code."""
    name = folder.resolve().name
    files = sorted(path.name for path in folder.glob("*.pt")) if to == "openai" else []
    path = f"{name}/{files[0]}" if files else name
    given, text = shlex.quote(path), json.dumps(path, ensure_ascii=False)
    label = f" --class {shlex.quote(model.classes[0])}" if model.classes else ""
    free = " --cfg-scale 3" if label and model.description.config.train.label_drop else ""
    command = {
        "image": f"ddpm sample {given} -n 16{label}{free}",
        "upsampler": f"ddpm sample BASE --upsample {given}{label}\nddpm sample {given} --low DATA",
        "classifier": f"ddpm sample MODEL --classifier {given} --classifier-scale 1{label}",
    }[task_of(model)]
    code = {
        "image": f"model = ddpm.load({text})\nmodel.sample(16, seed=0).grid()",
        "upsampler": f"model = ddpm.load({text})",
        "classifier": f"classifier = ddpm.load_classifier({text})",
    }[task_of(model)]
    made = (
        f"\n## Use\n\n`{name}` is this folder, where it was saved to. With ddpm:\n\n"
        f"```sh\n{command}\n```\n\n```py\nimport ddpm\n\n{code}\n```"
    )
    if to == "diffusers" and isinstance(model, Pipeline):
        made += "\n\nWith diffusers, which takes the repository's name as well:"
        made += f"\n\n```python\n{_code(name, model)}\n```"
    return made


def _code(name: str, model: Pipeline) -> str:
    """Code for diffusers: its pipeline, or the walk itself for a net that is told classes, which that does not."""
    data = model.description.config.data
    folder = json.dumps(name, ensure_ascii=False)
    if not model.classes:
        return (
            "from diffusers import DDPMPipeline\n\n"
            f"pipeline = DDPMPipeline.from_pretrained({folder})\n"
            f"images = pipeline(batch_size=4, num_inference_steps={model.description.config.chain.steps}).images"
        )
    first = " ".join(model.classes[0].split())
    return (
        "import torch\n"
        "from diffusers import DDPMScheduler, UNet2DModel\n\n"
        f'unet = UNet2DModel.from_pretrained({folder}, subfolder="unet")\n'
        f'scheduler = DDPMScheduler.from_pretrained({folder}, subfolder="scheduler")\n'
        f"x = torch.randn(4, {data.channels}, {data.size[0]}, {data.size[1]})\n"
        f"labels = torch.zeros(4, dtype=torch.long)  # class 0: {first}\n"
        "for t in scheduler.timesteps:\n"
        "    with torch.no_grad():\n"
        "        output = unet(x, t, class_labels=labels).sample\n"
        "    x = scheduler.step(output, t, x).prev_sample\n"
        "images = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()"
    )
