"""What OpenMMLab is told of SCSA: registration, the plugin layer, config bases, versions."""
