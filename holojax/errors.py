"""The error tree: every mistake a user can make has one class, and every message says what to change."""


class HoloJAXError(Exception):
    """Root of all errors that HoloJAX raises on purpose."""


class ConfigError(HoloJAXError, ValueError):
    """A configuration names an unknown key or part, or gives a value that does not fit."""


class LayoutError(HoloJAXError, ValueError):
    """Regions, devices and scene sizes do not fit each other."""


class RasterError(HoloJAXError, OSError):
    """A raster is missing, damaged, or not what the configuration says it is."""


class LabelError(HoloJAXError, ValueError):
    """A label raster does not fit its image, or holds a value outside the class table."""


class WeightsError(HoloJAXError, ValueError):
    """A weight file does not fit the model it is imported into."""


class CheckpointError(HoloJAXError, OSError):
    """A working directory holds no checkpoint, or one that does not fit the model."""
