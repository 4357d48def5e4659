"""Ground floor: exceptions, whole-or-absent files, parallel work. Knows nothing of images."""
