"""From a scan to a segmentation on the scan's own grid: preprocessing, windows, restoring."""
