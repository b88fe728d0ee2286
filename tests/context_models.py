"""Tiny random models for the columns of context, saved as their users save them."""

import copy
from pathlib import Path

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

NAMES = {0: "tabby, tabby cat", 1: "sofa", 2: "owl"}
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CHAT = "{% for m in messages %}{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}"
CHAT += "{% endfor %}{% endfor %}"


def save_models(root: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Save one model of each kind; return their folders by kind."""
    torch.manual_seed(0)
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = SIZE | tokens | {"max_position_embeddings": 600}
    vision = SIZE | {"image_size": 16, "patch_size": 8}
    tiny = {"size": {"height": 16, "width": 16}}
    causal = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=1024, **tokens)
    chat_tokenizer = copy.deepcopy(tokenizer)
    chat_tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    chat_text = text | {"vocab_size": len(chat_tokenizer), "num_key_value_heads": 2}
    together = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**vision), causal)
    together.decoder_start_token_id, together.pad_token_id, together.eos_token_id = 2, 0, 3
    parts = {
        "detector": (
            YolosForObjectDetection(
                YolosConfig(**SIZE, image_size=[32, 32], patch_size=16, num_detection_tokens=5, id2label=NAMES)
            ),
            YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}),
        ),
        "classifier": (ViTForImageClassification(ViTConfig(**vision, id2label=NAMES)), ViTImageProcessor(**tiny)),
        "regions": (
            OwlViTForObjectDetection(
                OwlViTConfig(text_config=text, vision_config=vision | {"image_size": 32}, projection_dim=16)
            ),
            OwlViTProcessor(OwlViTImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False), tokenizer),
        ),
        "captioner": (
            BlipForConditionalGeneration(
                BlipConfig(text_config=text | {"encoder_hidden_size": 16, "sep_token_id": 3}, vision_config=vision)
            ),
            BlipProcessor(BlipImageProcessor(**tiny), tokenizer),
        ),
        "chat": (
            LlavaForConditionalGeneration(
                LlavaConfig(
                    vision_config=CLIPVisionConfig(**vision),
                    text_config=LlamaConfig(**chat_text),
                    image_token_id=len(tokenizer),
                )
            ),
            LlavaProcessor(
                CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=tiny["size"]),
                chat_tokenizer,
                patch_size=8,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
                chat_template=CHAT,
            ),
        ),
        "encoder_decoder": (VisionEncoderDecoderModel(together), ViTImageProcessor(**tiny), tokenizer),
        "language_model": (GPT2LMHeadModel(causal), tokenizer),
    }
    # So that it always writes something.
    parts["language_model"][0].generation_config.suppress_tokens = [0, 1, 2, 3, 4]
    for kind, saved in parts.items():
        for part in saved:
            part.save_pretrained(root / kind)
    return {kind: str(root / kind) for kind in parts}
