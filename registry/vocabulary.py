"""One vocabulary for what the datasets' labels mean, so that labels of different sources can meet.

A harmonised label is a lower-case identifier. Two sources share an identifier only where their
annotators meant the same thing: a gross target volume (radiotherapy plan) is not a tumour outline,
a pleural effusion is not an infection.
"""

from __future__ import annotations

LABELS: dict[str, str] = {
    "left_lung": "left lung (the patient's left)",
    "right_lung": "right lung",
    "infection": "COVID-19 infection: ground-glass opacity, consolidation and mixed lesions",
    "ground_glass_opacity": "ground-glass opacity",
    "consolidation": "consolidation",
    "tumour": "lung tumour as outlined by radiologists",
    "gross_target_volume": "gross target volume of a lung cancer, as planned for radiotherapy",
    "pleural_effusion": "pleural effusion",
    "heart": "heart",
    "oesophagus": "oesophagus",
    "trachea": "trachea",
    "spinal_cord": "spinal cord",
}
