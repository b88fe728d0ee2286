"""The paper's own numbers, as printed, for tables to show beside what was measured here.

All F1, precision and recall are percent, means of five runs where the paper says so.
"""

CITATION = "Wu & Liu, Symmetry 2026, 18(2), 353"
DATA_SETS = ("MNER-MI", "MNER-MI-Plus")

# Table 2: precision, recall and F1 on MNER-MI, then on MNER-MI-Plus; what the systems read.
TABLE_2 = {
    "BiLSTM-CRF": ("text", (64.03, 65.91, 64.96), (73.65, 70.74, 72.17)),
    "HBiLSTM-CRF": ("text", (64.51, 68.55, 66.47), (72.19, 74.34, 73.25)),
    "BERT": ("text", (69.04, 73.54, 71.22), (77.35, 79.19, 78.26)),
    "BERT-CRF": ("text", (70.78, 75.05, 72.85), (80.15, 78.52, 79.33)),
    "UMT": ("first image", (74.23, 74.03, 74.13), (81.71, 79.50, 80.59)),
    "OCSGA": ("first image", (75.75, 72.04, 73.85), (81.44, 79.13, 80.27)),
    "UMGF": ("first image", (73.74, 75.30, 74.51), (82.31, 79.65, 80.96)),
    "MAF": ("first image", (74.91, 73.60, 74.25), (80.17, 81.29, 80.73)),
    "ITA": ("first image", (74.95, 74.21, 74.58), (79.64, 81.46, 80.54)),
    "HVPNeT": ("first image", (74.93, 75.28, 75.10), (81.88, 80.94, 81.41)),
    "VisualPT-MoE": ("first image", (74.77, 75.01, 74.89), (82.72, 80.64, 81.67)),
    "PGIM": ("first image", (75.80, 73.46, 74.61), (81.13, 81.39, 81.26)),
    "UMT-MI": ("all images", (76.56, 75.90, 76.23), (82.26, 82.96, 82.61)),
    "TPM-MI": ("all images", (77.45, 77.19, 77.32), (83.66, 83.18, 83.42)),
    "SMCL": ("all images", (78.35, 81.23, 79.76), (84.93, 85.35, 85.14)),
}

# Table 3, likewise.
TABLE_3 = {
    "SMCL": ((78.35, 81.23, 79.76), (84.93, 85.35, 85.14)),
    "w/o SFM": ((75.83, 78.02, 76.91), (82.97, 83.65, 83.31)),
    "w/o RE": ((74.23, 75.56, 74.89), (81.09, 82.37, 81.72)),
    "w/o AE": ((74.11, 75.43, 74.76), (80.78, 82.14, 81.45)),
    "w/o AE+RE": ((73.29, 74.36, 73.82), (79.33, 80.95, 80.13)),
    "w/o IGM": ((75.87, 76.95, 76.41), (81.97, 83.05, 82.51)),
}

# Section 4.5: the baseline that all else is kept at.
BASELINE = {"cmd_order": 3, "similarity_weight": 0.3, "difference_weight": 0.2, "learning_rate": 3e-5}

# Figure 6, as far as Section 4.5.2 gives numbers: F1 on MNER-MI, then on MNER-MI-Plus. It gives the weights' effects
# for "alpha > 0.4", "alpha < 0.2", "beta > 0.3" and "beta < 0.1"; they stand here at the ends of the ranges.
FIGURE_6 = {
    "cmd_order": {2: (78.46, None), 3: (79.76, 85.14), 4: (79.25, None), 5: (78.09, 83.46)},
    "similarity_weight": {0.1: (78.52, None), 0.3: (79.76, 85.14), 0.5: (78.52, None)},
    "difference_weight": {0.1: (79.03, None), 0.2: (79.76, 85.14), 0.4: (78.87, None)},
    "learning_rate": {1e-5: (78.01, None), 3e-5: (79.76, 85.14), 7e-5: (78.32, None)},
}

# Table 5: parameters in millions, hours of an epoch's training, posts per second at inference.
TABLE_5 = {
    "BERT-CRF": (109.8, 1.2, 312.6),
    "UMT-MI": (112.3, 1.8, 236.5),
    "TPM-MI": (118.7, 2.1, 215.8),
    "SMCL": (133.5, 2.3, 190.2),
    "w/o SFM": (121.6, 2.0, 220.7),
}

# Table 6: boundary errors, type confusion, modality conflict errors, percent of TPM-MI's errors.
TABLE_6 = {
    "TPM-MI": ((42.3, 35.7, 22.0), (40.1, 33.9, 26.0)),
    "SMCL": ((31.5, 28.2, 14.3), (29.7, 26.5, 18.8)),
}

# Section 4.1: how all systems but the BiLSTMs were trained, as arguments of run_ner_multiimage.py, and how often.
SETUP = {
    "text_model": "google-bert/bert-base-uncased",
    "vision_model": "google/vit-base-patch16-224",
    "learning_rate": "3e-5",
    "num_train_epochs": "50",
    "early_stopping_patience": "5",
}
SEEDS = 5
# Numbers of Table 5 and Section 4.7 that do not agree with the other tables.
DISAGREEMENTS = (
    "Table 5 gives BERT-CRF, UMT-MI and w/o SFM an F1 of 72.85/79.33, 76.23/82.61 and 73.66/79.79; Table 3 gives "
    "w/o SFM 76.91/83.31.",
)
