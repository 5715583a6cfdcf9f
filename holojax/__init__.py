"""HoloJAX: whole-scene semantic segmentation of very large images on device meshes."""
