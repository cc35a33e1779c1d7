"""What ours is compared with, as others would build it. The only place outside model_export that may import torch."""
