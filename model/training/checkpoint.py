"""Weights on disk: a training state to go on from, and a network that can be loaded alone."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data.manifest import LabelColumn
from data.text import HubTokenizer, Tokenizer, WordTokenizer
from model.network_config import CoAttentionConfig, NetworkConfig, TextEncoderConfig, VisionEncoderConfig
from model.placement import Placement
from model.tasks._task import load_task
from model.training.finetuning import FineTuning
from model.vilbert import build_two_stream

WEIGHTS, DESCRIPTION, TOKENIZER = "weights.safetensors", "network.json", "tokenizer.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message names the file and the mend."""


def save_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a training state so that a reader finds the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        torch.save(dict(state), temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_training_state(path: Path) -> dict[str, Any]:
    """A training state, read without executing anything from the file.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a readable training state ({error}); delete it to start again"
        ) from error


def save_network(
    folder: Path,
    trainee: FineTuning,
    config: NetworkConfig,
    *,
    task: str,
    tokenizer: Tokenizer,
    label_columns: tuple[LabelColumn, ...],
    facts: Mapping[str, Any],
) -> None:
    """Writes a fine-tuned network as a folder that `load_network` reads, with nothing else at hand.

    `facts` (seed, metrics, data fingerprint, …) go into the description beside the architecture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous().cpu() for name, value in trainee.state_dict().items()}
    _replace(folder / WEIGHTS, safetensors.torch.save(weights))
    if isinstance(tokenizer, WordTokenizer):
        tokenizer.save(folder / TOKENIZER)
    description = {
        "network": dataclasses.asdict(config),
        "task": task,
        "vocabulary_size": tokenizer.vocabulary_size,
        "pad_id": tokenizer.pad_id,
        "labels": [dataclasses.asdict(column) for column in label_columns],
        "facts": dict(facts),
    }
    # Last, so that a folder with a description is a whole one.
    _replace(folder / DESCRIPTION, json.dumps(description, indent=2).encode())


def load_network(folder: Path) -> tuple[FineTuning, Tokenizer, dict[str, Any]]:
    """The network in `folder`, its tokenizer, and its description.

    Raises:
        CheckpointError: the folder is not a network's, or its weights do not fit its description (the
            missing and the left-over ones are named).
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no {DESCRIPTION} here; give the folder of a saved network"
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: damaged ({error}); export the network again"
        ) from None
    config = network_config_from(description["network"])
    network = build_two_stream(
        config, vocabulary_size=description["vocabulary_size"], pad_id=description["pad_id"]
    )
    labels = tuple(
        LabelColumn(**{**column, "class_names": tuple(column["class_names"])})
        for column in description["labels"]
    )
    trainee = FineTuning(network, config, load_task(description["task"], labels))
    load_weights(trainee, folder / WEIGHTS)
    tokenizer: Tokenizer = (
        WordTokenizer.load(folder / TOKENIZER)
        if config.text.source == "random"
        else HubTokenizer(config.text.source)
    )
    return trainee.eval(), tokenizer, description


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads all of a module's weights from a safetensors file.

    Raises:
        CheckpointError: the file is damaged, or lacks weights, or has some that the module has not.
    """
    try:
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error})") from error
    present = module.state_dict().keys()
    missing, left_over = sorted(present - weights.keys()), sorted(weights.keys() - present)
    if missing or left_over:
        raise CheckpointError(
            f"{path} does not fit the network: missing {', '.join(missing) or 'nothing'}; "
            f"left over {', '.join(left_over) or 'nothing'}"
        )
    module.load_state_dict(weights)


def network_config_from(record: Mapping[str, Any]) -> NetworkConfig:
    """The `NetworkConfig` that `dataclasses.asdict` turned into `record`."""
    return NetworkConfig(
        text=TextEncoderConfig(**record["text"]),
        vision=VisionEncoderConfig(**record["vision"]),
        coattention=CoAttentionConfig(**record["coattention"]),
        placement=Placement(tuple((t, v) for t, v in record["placement"]["pairs"])),
        join=record["join"],
        modality=record["modality"],
    )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
