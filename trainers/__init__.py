"""Entry points for `accelerate launch`: each reads as its method's recipe."""
