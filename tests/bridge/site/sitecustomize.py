"""A torchvision that does not fit torch keeps lmms-eval's own command from starting: hide it."""

import contextlib

with contextlib.suppress(ImportError):
    from vexp.backbone._imports import hide_broken_packages

    hide_broken_packages()
