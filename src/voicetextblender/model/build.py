"""From a recipe's `model` section to a composite whose every weight is accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from voicetextblender.audio.front_end import FrontEnd, open_front_end
from voicetextblender.audio.lengths import TokenCount
from voicetextblender.chat.render import Renderer
from voicetextblender.chat.template import chat_template_for_parts
from voicetextblender.config import StrictConfig
from voicetextblender.errors import ModelError, describe
from voicetextblender.files import derive_seed
from voicetextblender.model.adapters.base import initialise_projection
from voicetextblender.model.adapters.config import AdapterConfig, ConformerConfig, check_heads
from voicetextblender.model.configuration import VoiceTextBlenderConfig
from voicetextblender.model.encoders.families import encoder_stages
from voicetextblender.model.encoders.load import load_encoder, load_whole
from voicetextblender.model.encoders.plan import plan_encoder
from voicetextblender.model.encoders.settings import EncoderSettings
from voicetextblender.model.lora import LoraSettings, add_lora
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.processing import VoiceTextBlenderFeatureExtractor, VoiceTextBlenderProcessor
from voicetextblender.model.trainable import TrainableConfig, set_trainable


class ModelConfig(StrictConfig):
    """The two models to join, and how."""

    llm: str
    """Folder or hub name of a causal LLM with a chat template."""
    speech_encoder: str
    """Folder or hub name of a speech encoder, or of a model around one."""
    encoder: EncoderSettings = EncoderSettings()
    """How the speech encoder is used."""
    audio_token: str = "<|audio|>"
    """A special token of the LLM's tokenizer that holds the place of one audio embedding."""
    adapter: AdapterConfig = ConformerConfig()
    """The layers between the two models."""
    lora: LoraSettings = LoraSettings()
    """Used when `trainable.llm` is `lora`."""
    trainable: TrainableConfig = TrainableConfig()
    """Which parts learn."""
    warm_start: Literal["none", "ctc"] = "none"
    """`ctc` fits a Conformer adapter to the encoder's CTC head before the first step; `none` is the paper's."""

    @model_validator(mode="after")
    def _check_warm_start(self) -> Self:
        if self.warm_start == "ctc" and self.adapter.kind != "conformer":
            raise ValueError(
                f"it should have warm_start none: adapter.kind is {self.adapter.kind}, and only a Conformer has the "
                "feed-forward block that a warm start fits"
            )
        return self


@dataclass(frozen=True)
class Composite:
    """A model with the tokenizer, renderer and features that belong to it."""

    model: VoiceTextBlenderForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    front_end: FrontEnd
    config: ModelConfig

    @property
    def num_encoder_frames(self) -> TokenCount:
        """From the samples of a clip to its encoder frames."""
        return TokenCount((self.front_end.config.framing, *encoder_stages(self.model.config.audio_config)))

    @property
    def num_audio_tokens(self) -> TokenCount:
        """From the samples of a clip to its audio placeholder tokens; picklable, and knows nothing of the weights."""
        return TokenCount((*self.num_encoder_frames.stages, *self.config.adapter.stages))

    @property
    def geometry_fingerprint(self) -> str:
        """A string that changes when the number of audio tokens per clip does."""
        return self.num_audio_tokens.fingerprint


def build_composite(config: ModelConfig, seed: int) -> Composite:
    """Join an LLM and a speech encoder; the adapter and the LoRA pairs start from `seed`.

    Raises:
        ModelError: Weights that are missing or surplus, an audio token outside the vocabulary, LoRA targets that match
            nothing.
    """
    llm = load_whole(AutoModelForCausalLM, config.llm)
    plan = plan_encoder(config.speech_encoder, config.encoder)
    check_heads(config.adapter, plan.config.hidden_size)
    encoder = load_encoder(plan)
    tokenizer = AutoTokenizer.from_pretrained(config.llm)
    composite_config = VoiceTextBlenderConfig(
        text_config=llm.config,
        audio_config=encoder.config,
        front_end_config=plan.front_end.model_dump(),
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
        check_logits(model, llm, config.llm)
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
    set_trainable(model, config.trainable, lora_acts=config.lora.gating != "off")
    front_end = open_front_end(model.config.front_end_config)
    return Composite(model, tokenizer, Renderer(tokenizer, config.audio_token), front_end, config)


def build_processor(composite: Composite) -> VoiceTextBlenderProcessor:
    """The processor that gives what renderer and features of `composite` give; its chat template takes parts too."""
    audio_token = composite.config.audio_token
    template = composite.tokenizer.chat_template
    assert isinstance(template, str), "the renderer refuses a tokenizer without one template"
    return VoiceTextBlenderProcessor(
        VoiceTextBlenderFeatureExtractor(
            composite.front_end.config.model_dump(), sampling_rate=composite.front_end.config.sampling_rate
        ),
        composite.tokenizer,
        chat_template=chat_template_for_parts(template, audio_token),
        audio_token=audio_token,
        stages=composite.num_audio_tokens.stages[1:],
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


@torch.no_grad()
def check_logits(model: VoiceTextBlenderForConditionalGeneration, llm: PreTrainedModel, path: str) -> None:
    """Compare the composite's logits of a few tokens with those of the LLM whose layers and head it has taken.

    Families scale or cap their logits in ways of their own; one that we do not know must not pass.

    Raises:
        ModelError: They differ.
    """
    token_ids = torch.linspace(0, llm.config.vocab_size - 1, 8, device=model.device).long()[None]
    ours = model.eval()(input_ids=token_ids, use_cache=False).logits
    theirs = llm.eval()(input_ids=token_ids, use_cache=False).logits
    if not torch.equal(ours, theirs):
        found = f"its logits differ from ours by up to {float((ours - theirs).abs().max()):.3g}"
        expected = f"a head that our loss knows; that of {type(llm).__name__} does something else"
        raise ModelError(describe(path, found, expected, "Choose another LLM, or teach `compute_logits` its head"))


def measure_embedding_rms(embedding: nn.Embedding, num_tokens: int = 4096) -> float:
    """Root mean square of the LLM's input embeddings, after any scale that the embedding module applies."""
    count = min(num_tokens, embedding.num_embeddings)
    with torch.no_grad():
        return float(embedding(torch.arange(count)[None]).float().pow(2).mean().sqrt())
