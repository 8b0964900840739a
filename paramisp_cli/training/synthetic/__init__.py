"""Data sets of noisy and clean RAW made from folders of pictures (``paramisp synth``)."""
