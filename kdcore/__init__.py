"""Halflayer's training library: LayerDrop teachers, pruned students, distillation.

Is independent: imports neither `app` nor `worker`, and does not use a database. Importing this
package, `kdcore.config` or `kdcore.errors` does not import torch.
"""

__version__ = "0.1.0"
