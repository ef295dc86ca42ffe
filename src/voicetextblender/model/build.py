"""From a recipe's `model` section to a composite whose every weight is accounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from voicetextblender.audio.features import LogMel, LogMelConfig
from voicetextblender.audio.lengths import num_audio_tokens
from voicetextblender.chat.render import Renderer
from voicetextblender.chat.template import chat_template_for_parts
from voicetextblender.config import StrictConfig
from voicetextblender.errors import ModelError, describe
from voicetextblender.files import derive_seed
from voicetextblender.model.adapter import initialise_projection
from voicetextblender.model.configuration import VoiceTextBlenderConfig
from voicetextblender.model.lora import LoraSettings, add_lora
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.processing import VoiceTextBlenderFeatureExtractor, VoiceTextBlenderProcessor

PARTS = {"speech_encoder": "model.audio_tower.", "adapter": "model.adapter."}
"""Name prefixes of the speech parts; everything else is the LLM."""


class AdapterConfig(StrictConfig):
    """Shape of the Conformer modality adapter (defaults: the authors' configuration).

    Args:
        num_layers: Conformer layers between the encoder and the linear map to the LLM's width.
        num_heads: attention heads per layer; a divisor of the encoder's width.
        feed_forward_factor: width of the feed-forward blocks, in widths of the encoder.
        conv_kernel_size: encoder frames under the depthwise convolution; odd.
        dropout: share of the activations that is zeroed in training.
    """

    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(8, ge=1)
    feed_forward_factor: int = Field(4, ge=1)
    conv_kernel_size: int = Field(9, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @field_validator("conv_kernel_size")
    @classmethod
    def _check_odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("it should be odd")
        return size


class TrainableConfig(StrictConfig):
    """Which parts learn.

    Args:
        speech_encoder: all weights of the speech encoder.
        adapter: all weights of the modality adapter.
        llm: `lora` trains low-rank pairs beside its layers, `full` all its weights, `frozen` nothing.
    """

    speech_encoder: bool = True
    adapter: bool = True
    llm: Literal["lora", "full", "frozen"] = "lora"


class ModelConfig(StrictConfig):
    """The two models to join, and how."""

    llm: str
    """Folder or hub name of a causal LLM with a chat template."""
    speech_encoder: str
    """Folder or hub name of a FastConformer encoder (the library's Parakeet classes)."""
    audio_token: str = "<|audio|>"
    """A special token of the LLM's tokenizer that holds the place of one audio embedding."""
    adapter: AdapterConfig = AdapterConfig()
    """The layers between the two models."""
    lora: LoraSettings = LoraSettings()
    """Used when `trainable.llm` is `lora`."""
    trainable: TrainableConfig = TrainableConfig()
    """Which parts learn."""
    warm_start: Literal["none", "ctc"] = "none"
    """`ctc` fits the adapter to the encoder's CTC head before the first step; `none` is the paper's."""


@dataclass(frozen=True)
class Composite:
    """A model with the tokenizer, renderer and features that belong to it."""

    model: VoiceTextBlenderForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    log_mel: LogMel
    config: ModelConfig

    @property
    def num_audio_tokens(self) -> Callable[[int], int]:
        """From the samples of a clip to its audio placeholder tokens; picklable, and knows nothing of the weights."""
        factor = self.model.config.audio_config.subsampling_factor
        return partial(num_audio_tokens, hop_length=self.log_mel.config.hop_length, subsampling_factor=factor)

    @property
    def geometry_fingerprint(self) -> str:
        """A string that changes when the number of audio tokens per clip does."""
        return f"{self.log_mel.config.hop_length}/{self.model.config.audio_config.subsampling_factor}"


def build_composite(config: ModelConfig, seed: int) -> Composite:
    """Join an LLM and a speech encoder; the adapter and the LoRA pairs start from `seed`.

    Raises:
        ModelError: Weights that are missing or surplus, an audio token outside the vocabulary, LoRA targets that match
            nothing.
    """
    llm = load_whole(AutoModelForCausalLM, config.llm)
    encoder = load_encoder(config.speech_encoder)
    tokenizer = AutoTokenizer.from_pretrained(config.llm)
    composite_config = VoiceTextBlenderConfig(
        text_config=llm.config,
        audio_config=encoder.config,
        adapter_config=config.adapter.model_dump(),
        audio_token_id=find_audio_token(tokenizer, config, llm.config.vocab_size),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        model = VoiceTextBlenderForConditionalGeneration(composite_config)
        model.model.language_model = getattr(llm, llm.base_model_prefix)
        # In this layout the convolutions of the front end run three times as fast on a CPU.
        model.model.audio_tower = encoder.to(memory_format=torch.channels_last)
        model.lm_head = llm.get_output_embeddings()
        embeddings = model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        initialise_projection(model.model.adapter, measure_embedding_rms(embeddings))
        if config.trainable.llm == "lora":
            add_lora(model, config.lora)
    return assemble(model, tokenizer, config)


def assemble(
    model: VoiceTextBlenderForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, config: ModelConfig
) -> Composite:
    """Give a model its renderer and features, mark what is trainable, and leave it in evaluation mode."""
    model.eval()
    set_trainable(model, config.trainable)
    log_mel = LogMel(LogMelConfig(num_mels=model.config.audio_config.num_mel_bins))
    return Composite(model, tokenizer, Renderer(tokenizer, config.audio_token), log_mel, config)


def build_processor(composite: Composite) -> VoiceTextBlenderProcessor:
    """The processor that gives what renderer and features of `composite` give; its chat template takes parts too."""
    audio_token = composite.config.audio_token
    template = composite.tokenizer.chat_template
    assert isinstance(template, str), "the renderer refuses a tokenizer without one template"
    return VoiceTextBlenderProcessor(
        VoiceTextBlenderFeatureExtractor(composite.log_mel.config.num_mels, composite.log_mel.config.sampling_rate),
        composite.tokenizer,
        chat_template=chat_template_for_parts(template, audio_token),
        audio_token=audio_token,
        subsampling_factor=composite.model.config.audio_config.subsampling_factor,
    )


def load_whole(auto_class: Any, path: str) -> PreTrainedModel:
    """A pretrained model in fp32, with every weight of the model found in the checkpoint.

    Raises:
        ModelError: No such folder, or weights missing from it (they would stay random).
    """
    try:
        model, report = auto_class.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except OSError as error:
        raise ModelError(
            describe(
                path,
                f"no model can be loaded ({str(error).splitlines()[0]})",
                "a save_pretrained folder or a hub name",
                "Check the path; the embedded base models are made by `vtb prepare mini`",
            )
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            describe(
                path,
                f"{len(missing)} weights are missing, first {missing[:5]}",
                f"every weight of {type(model).__name__}",
                "Use a complete checkpoint",
            )
        )
    return model


def load_encoder(path: str) -> PreTrainedModel:
    """A FastConformer encoder, from an encoder folder or from a CTC model that contains one.

    Raises:
        ModelError: Another kind of model.
    """
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise ModelError(
            describe(
                path,
                "no speech encoder can be loaded",
                "a save_pretrained folder or a hub name",
                "Check the path; the embedded base models are made by `vtb prepare mini`",
            )
        ) from error
    if config.model_type == "parakeet_encoder":
        return load_whole(AutoModel, path)
    if config.model_type == "parakeet_ctc":
        from transformers import ParakeetForCTC

        return load_whole(ParakeetForCTC, path).encoder
    raise ModelError(
        describe(
            path,
            f"model type '{config.model_type}'",
            "'parakeet_encoder' or 'parakeet_ctc' (FastConformer)",
            "Choose a FastConformer encoder",
        )
    )


def find_audio_token(tokenizer: PreTrainedTokenizerBase, config: ModelConfig, vocab_size: int) -> int:
    """Id of the audio placeholder token.

    Raises:
        ModelError: The token is not in the tokenizer, or its id lies outside the LLM's embeddings.
    """
    vocabulary = tokenizer.get_vocab()
    token_id = vocabulary.get(config.audio_token)
    if token_id is None or token_id >= vocab_size:
        found = "is not in the tokenizer" if token_id is None else f"has id {token_id}, the LLM {vocab_size} embeddings"
        reserved = [token for token in tokenizer.get_added_vocab() if "unused" in token or "reserved" in token][:3]
        raise ModelError(
            describe(
                "model.audio_token",
                f"'{config.audio_token}' {found}",
                f"a token inside the LLM's vocabulary (reserved ones here: {reserved or 'none'})",
                "Name a reserved token of this tokenizer",
            )
        )
    return token_id


def measure_embedding_rms(embedding: nn.Embedding, num_tokens: int = 4096) -> float:
    """Root mean square of the LLM's input embeddings, after any scale that the embedding module applies."""
    count = min(num_tokens, embedding.num_embeddings)
    with torch.no_grad():
        return float(embedding(torch.arange(count)[None]).float().pow(2).mean().sqrt())


def part_of(name: str) -> str:
    """`speech_encoder`, `adapter` or `llm`: the part that the parameter `name` belongs to."""
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "llm")


def set_trainable(model: nn.Module, trainable: TrainableConfig) -> None:
    """Let exactly the parameters learn that `trainable` names."""
    learns = {"speech_encoder": trainable.speech_encoder, "adapter": trainable.adapter}
    for name, parameter in model.named_parameters():
        is_lora = ".lora_" in name
        llm_learns = trainable.llm == "full" or (trainable.llm == "lora" and is_lora)
        parameter.requires_grad_(learns.get(part_of(name), llm_learns))


def trainable_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that learn, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
