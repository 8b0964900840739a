"""Data sets of blurred and sharp pictures: sources (frames, video, stills), motion between frames, making."""
