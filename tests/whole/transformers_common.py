"""What a model inside transformers must pass: that library's own common tests, from its source distribution.

Not part of the suite, which needs no source distribution: `make common` fetches it and runs this file.
"""

import os
import sys
import unittest
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from factories import TEXT_SIZE, make_config, make_inputs
from transformers import BertTokenizer, ViTImageProcessorPil
from transformers.models.auto import modeling_auto

from smcl import SMCLConfig, SMCLForTokenClassification, SMCLModel, SMCLProcessor
from smcl.layers_smcl import GUIDED_ATTENTION, check_text_encoder

PACKAGE = "transformers_tests"
# Of what the common tests import, these are not in the source distribution.
MISSING = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    # Composite configurations are not asked for these.
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": {}},
    # Only for videos.
    "fetch_hub_objects_for_ci": {"url_to_local_path": str},
}


def import_common_tests() -> None:
    """Make the unpacked source distribution in `TRANSFORMERS_SOURCE` importable, with stand-ins for what it lacks."""
    folder = Path(os.environ.get("TRANSFORMERS_SOURCE", "")) / "tests"
    if not (folder / "test_modeling_common.py").is_file():
        raise FileNotFoundError(f"`TRANSFORMERS_SOURCE`: expected transformers' common tests in {folder}, found none.")
    package = ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    for name, members in MISSING.items():
        module = ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    # What decides which labels the tests give to a class, and that the bare model has no loss.
    modeling_auto.MODEL_MAPPING_NAMES["smcl"] = "SMCLModel"
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES["smcl"] = "SMCLForTokenClassification"


import_common_tests()

# It imports all of transformers anew, from a folder that the source distribution lacks, and makes no use of it.
with patch("transformers.utils.direct_transformers_import"):
    from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin  # noqa: E402
from transformers_tests.test_processing_common import ProcessorTesterMixin  # noqa: E402
from transformers_tests.test_training_mixin import TrainingTesterMixin  # noqa: E402


class ModelTester:
    """Configuration and inputs, as the common tests ask for them."""

    is_training = True
    batch_size, seq_length = 3, 9
    num_hidden_layers, num_attention_heads = TEXT_SIZE["num_hidden_layers"], TEXT_SIZE["num_attention_heads"]
    hidden_size = TEXT_SIZE["hidden_size"]

    def __init__(self, image_counts: tuple[int, ...]):
        self.image_counts = image_counts
        self.key_length = max(image_counts) + self.seq_length

    def get_config(self) -> SMCLConfig:
        return make_config()

    def prepare_config_and_inputs_for_common(self) -> tuple[SMCLConfig, dict]:
        inputs = make_inputs(image_counts=self.image_counts)
        # Which tokens start words is asked for by `decode`, not by the bare model.
        del inputs["word_mask"]
        return self.get_config(), inputs


class TestModelWithImages(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SMCLModel, SMCLForTokenClassification)
    _is_composite = True
    # Asked of younger models only, by the year in their files' copyright notes.
    test_can_init_all_missing_weights_before_2023 = True
    image_counts = (3, 1, 2)

    def setUp(self):
        self.model_tester = ModelTester(self.image_counts)

    def test_attn_implementation_composite_models(self):
        """Run transformers' test with each guided layer showing the encoder's configuration for its own.

        It demands "eager" of every attention layer's configuration, where a guided layer has the name under which
        guidance is registered: a layer under the name "eager" would call the stock function, and lose the images.
        Which arithmetic a guided layer does stands in its `encoder_config`.
        """
        shown = []

        def check_and_show(text_model, encode):
            # The last that happens to a text encoder in building.
            check_text_encoder(text_model, encode)
            for layer in text_model.modules():
                if hasattr(layer, "encoder_config"):
                    self.assertEqual(layer.config._attn_implementation, GUIDED_ATTENTION)
                    self.assertIs(layer.encoder_config, text_model.config)
                    layer.config = layer.encoder_config
                    shown.append(layer)

        with patch("smcl.modeling_smcl.check_text_encoder", check_and_show):
            super().test_attn_implementation_composite_models()
        self.assertTrue(shown)


class TestModelWithoutImages(TestModelWithImages):
    image_counts = (0, 0, 0)
    # Without an image, those of the image encoder and of what joins it have none.
    test_all_params_have_gradient = False


class TrainingTester(ModelTester):
    # The name under which the test looks for a class with a loss.
    sequence_classification_class = SMCLForTokenClassification

    def get_config(self) -> SMCLConfig:
        """Have the test's labels, which are the token ids 1 to 19, and the size that it asks of a text model."""
        return make_config(id2label={i: f"B-{i}" for i in range(20)}, vocab_size=100)


class TestTraining(TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (SMCLForTokenClassification,)

    def setUp(self):
        self.model_tester = TrainingTester((0, 0, 0))


class TestConfiguration(unittest.TestCase):
    def test_config(self):
        self.model_tester = ModelTester((0, 0, 0))
        ConfigTester(self, config_class=SMCLConfig, has_text_modality=False, max_images=3).run_common_tests()


class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = SMCLProcessor

    @classmethod
    def _setup_tokenizer(cls):
        letters = "abcdefghijklmnopqrstuvwxyz"
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
        return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=512)

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessorPil(size={"height": 16, "width": 16})
