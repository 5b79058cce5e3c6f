"""What a container promises: asked of the kernel while it runs, tried from inside, and told of a Spec beforehand."""
