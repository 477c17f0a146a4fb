"""What alignment needs: motions of the stage, warps of images, pixels of detectors."""
