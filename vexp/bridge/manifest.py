"""What lmms-eval's entry point group `lmms_eval.models` finds: our model, called `vexp`."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MANIFESTS = [ModelManifest(model_id="vexp", chat_class_path="vexp.bridge.model.VexpModel")]
