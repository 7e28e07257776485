"""Transfer of pretrained backbones to labelled tasks."""
