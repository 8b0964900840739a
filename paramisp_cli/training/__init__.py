"""Making weights: aligned pairs of RAW and camera JPEG, recipes, the loop, and the measuring of what came out."""
