"""What AWS must own, as one CDK app: `build` puts the stacks of a stage together. Synth asks nobody: no network, no Docker."""
