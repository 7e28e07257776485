"""Transfer of pretrained backbones to labelled tasks. So far: the views of a test clip and how they are merged."""
