"""Halflayer's training library: LayerDrop teachers, pruned students, distillation.

Stands alone: imports neither `app` nor `worker`, knows no database. Importing this
package, `kdcore.config` or `kdcore.errors` does not import torch.
"""

__version__ = "0.1.0"
