"""The one file you edit: backbones, datasets, experiments.

Each experiment consists of five sections of fields; m2clip_lib/sections.py documents every field and its default. Paths are absolute,
start with ~, or are relative to the root of the repository. On the command line, `-o section.field=value` sets a field for one call,
for example `python train.py demo --run quick -o train.epochs=2`.
"""

from m2clip_lib.presets import PRESETS

DEFAULT_EXPERIMENT = "demo"

# --- Backbones: the frozen CLIP ---------------------------------------------------------------------------------------------

DEMO_CLIP = {"source": "demo"}  # 64 px, patch 16, 4 layers; shipped with the library, no download
VIT_B_32 = {"source": "ViT-B-32-quickgelu/openai"}  # 224 px; open_clip downloads the weights once (about 600 MB)
VIT_B_16 = {"source": "ViT-B-16-quickgelu/openai"}  # likewise; or the path of a downloaded file: {"source": "~/weights/ViT-B-16.pt"}

# --- Adapters: the published configurations ---------------------------------------------------------------------------------

SMALL_ADAPTERS = {  # for the demonstration's CLIP: 4 visual blocks, 2 text blocks + the masked-word block
    "vision_adapter_layers": 4,
    "vision_adapter_width": 48,
    "text_adapter_layers": 3,
    "text_adapter_width": 48,
    "dropout": 0.3,
}
B16_12X384 = PRESETS["B/16 12x384"].model  # sizes and parameter counts: m2clip_lib/presets.py
B16_24X384 = PRESETS["B/16 24x384"].model
B32_12X384 = PRESETS["B/32 12x384"].model  # text adapters only in the masked-word block: class texts stay as in CLIP

# --- Datasets ---------------------------------------------------------------------------------------------------------------

DEMO_VIDEOS = {"layout": "synthetic", "prepared": "demo", "num_frames": 8, "stride": 0}
OWN_FOLDER = {
    "layout": "folder",
    "root": "data/videos",  # data/videos/<class>/<video>, or .../<train|val|test>/<class>/<video>
    "prepared": "own_folder",
    "num_frames": 8,
    "stride": 0,
}
KINETICS_400 = {
    "layout": "kinetics",
    "root": "data/kinetics400/videos",  # fill in: your copy of the videos
    "train_list": "data/kinetics400/train.csv",  # fill in: label, youtube_id, time_start, time_end, split
    "val_list": "data/kinetics400/validate.csv",
    "prepared": "kinetics400",
    "num_frames": 8,
    "stride": 16,
    "mirror": True,
}
SSV2 = {
    "layout": "ssv2",
    "root": "data/ssv2/videos",  # fill in: the folder of <id>.webm
    "train_list": "data/ssv2/something-something-v2-train.json",  # fill in
    "val_list": "data/ssv2/something-something-v2-validation.json",
    "names_file": "data/ssv2/labels.json",
    "prepared": "ssv2",
    "num_frames": 8,
    "stride": 0,
    "random_resized_crop": True,
    "rand_augment": True,  # no mirroring: left and right are part of the labels
}
UCF_101 = {
    "layout": "ucf101",
    "root": "data/ucf101/videos",  # fill in: class folders, or one flat folder
    "annotations": "data/ucf101/ucfTrainTestlist",  # fill in: classInd.txt, trainlist0N.txt, testlist0N.txt
    "official_split": 1,  # 1, 2 or 3; one manifest per split, so give each its own `prepared`; a tenth of the training videos is validation
    "prepared": "ucf101_split1",
    "num_frames": 8,
    "stride": 8,
    "mirror": True,
}
HMDB_51 = {
    "layout": "hmdb51",
    "root": "data/hmdb51/videos",  # fill in: class folders, or one flat folder
    "annotations": "data/hmdb51/testTrainMulti_7030_splits",  # fill in: <class>_test_split{1,2,3}.txt
    "official_split": 1,
    "prepared": "hmdb51_split1",
    "num_frames": 8,
    "stride": 4,
    "mirror": True,
}
KINETICS_600_ZERO_SHOT = {  # one of three splits, each of 160 classes that are not in Kinetics-400; evaluation only
    "layout": "k600_zero_shot",
    "root": "data/kinetics600/videos",  # fill in
    "test_list": "data/kinetics600/zero_shot_split1.txt",  # fill in: <path> <label>
    "names_file": "data/kinetics600/zero_shot_names1.txt",  # fill in: names of the split's classes, or of all classes its labels index
    "prepared": "k600_zero_shot_split1",
    "num_frames": 8,
    "stride": 16,
}

# --- Recipes that two experiments share -------------------------------------------------------------------------------------

LAST_EPOCH_ON_VAL = {"split": "val", "checkpoint": "last"}  # as published: the split that is reported does not choose the epoch

SMALL_DATASET = {  # an untested starting point for UCF101 and HMDB51
    "backbone": VIT_B_16,
    "model": B16_12X384,
    "train": {"epochs": 20, "batch_size": 64, "lr": 2.5e-4, "warmup": 2 / 20, "precision": "bf16"},
    "eval": {"spatial_views": 3, "temporal_views": 2, "batch_size": 8},
}

# --- Experiments ------------------------------------------------------------------------------------------------------------

EXPERIMENTS = {
    # No download, no GPU: moving shapes whose classes differ only in motion, and a small CLIP that is shipped.
    "demo": {
        "backbone": DEMO_CLIP,
        "model": SMALL_ADAPTERS,
        "data": DEMO_VIDEOS | {"cache_frames": True, "workers": 0},
        "train": {"epochs": 8, "batch_size": 32, "lr": 8e-3, "warmup": 0.15, "precision": "fp32", "threads": 1},
        "eval": {"batch_size": 64, "ablation_epochs": 3},
    },
    # Every motion in each of four colours, for notebook 13: unseen combinations of colours and motions that were seen.
    "demo_combinations": {
        "backbone": DEMO_CLIP,
        "model": SMALL_ADAPTERS,
        "data": DEMO_VIDEOS
        | {"prepared": "demo_combinations", "colours": ("red", "green", "blue", "yellow"), "cache_frames": True, "workers": 0},
        "train": {"epochs": 16, "batch_size": 32, "lr": 8e-3, "weight_decay": 0.3, "warmup": 0.15, "precision": "fp32", "threads": 1},
        "eval": {"batch_size": 64},
    },
    # Two shapes in every video, each with a motion of its own: two labels per video.
    "demo_multilabel": {
        "backbone": DEMO_CLIP,
        "model": SMALL_ADAPTERS,
        "data": DEMO_VIDEOS | {"prepared": "demo_multilabel", "two_shapes": True, "cache_frames": True, "workers": 0},
        "train": {"epochs": 8, "batch_size": 32, "lr": 8e-3, "warmup": 0.15, "precision": "fp32", "threads": 1},
        "eval": {"batch_size": 64},
    },
    # The demonstration's videos with a real CLIP at 224 px: needs the network once; a GPU is advisable.
    "demo_vit_b32": {
        "backbone": VIT_B_32,
        "model": B32_12X384 | {"text_adapter_layers": 2},
        "data": DEMO_VIDEOS,
        "train": {"epochs": 8, "batch_size": 32, "lr": 1e-3, "precision": "bf16"},
    },
    # Your own videos, one folder per class, on the demonstration's small CLIP: fast on any machine. For real accuracy set
    # backbone to VIT_B_32 or VIT_B_16, model to B16_12X384 and lr to 1e-3.
    "own_folder": {
        "backbone": DEMO_CLIP,
        "model": SMALL_ADAPTERS,
        "data": OWN_FOLDER | {"workers": 2},
        "train": {"epochs": 12, "batch_size": 16, "lr": 5e-3},
    },
    # The published Kinetics-400 recipe: 8 frames, stride 16, batch 256 in total; test on 4 spatial x 3 temporal views.
    "k400_b16": {
        "backbone": VIT_B_16,
        "model": B16_12X384,
        "data": KINETICS_400 | {"short_side": (224, 258), "workers": 12},
        "train": {"epochs": 12, "batch_size": 256, "lr": 1e-3, "warmup": 2 / 12, "precision": "bf16"},
        "eval": LAST_EPOCH_ON_VAL | {"spatial_views": 4, "temporal_views": 3, "batch_size": 4},
    },
    # The published Something-Something v2 recipe: 50 epochs, 3 x 1 views, 24 adapters.
    "ssv2_b16": {
        "backbone": VIT_B_16,
        "model": B16_24X384,
        "data": SSV2 | {"workers": 12},
        "train": {"epochs": 50, "batch_size": 256, "lr": 1e-3, "warmup": 2 / 50, "precision": "bf16"},
        "eval": LAST_EPOCH_ON_VAL | {"spatial_views": 3, "batch_size": 8},
    },
    # Split 1 of UCF101 and of HMDB51; for the other splits: -o data.official_split=2 -o data.prepared=ucf101_split2.
    "ucf101_b16": SMALL_DATASET | {"data": UCF_101 | {"short_side": (224, 258), "workers": 12}},
    "hmdb51_b16": SMALL_DATASET | {"data": HMDB_51 | {"short_side": (224, 258), "workers": 12}},
    # Zero-shot: m2clip eval k600_zero_shot --checkpoint checkpoints/k400_b16/best.safetensors (similarity alone, no training).
    "k600_zero_shot": {
        "backbone": VIT_B_16,
        "model": B16_12X384,
        "data": KINETICS_600_ZERO_SHOT | {"workers": 12},
        "eval": {"spatial_views": 4, "temporal_views": 3, "batch_size": 4},
    },
    # One 16 GB GPU with the better backbone: batch 32, 8 frames; activation checkpointing saves memory (`m2clip plan k400_b16_16gb
    # --videos 240000` computes how much is needed; not measured yet). lr as in the next entry.
    "k400_b16_16gb": {
        "backbone": VIT_B_16,
        "model": B16_12X384,
        "data": KINETICS_400 | {"short_side": (224, 258), "workers": 8},
        "train": {
            "epochs": 12,
            "batch_size": 32,
            "lr": 1.25e-4,
            "warmup": 2 / 12,
            "precision": "bf16",
            "activation_checkpointing": True,
        },
        "eval": LAST_EPOCH_ON_VAL,
    },
    # One 16 GB GPU, as in the seed project: batch 32, 12 epochs, 8 frames, 1 x 1 views. lr = 1e-3 * 32 / 256.
    "k400_b32_16gb": {
        "backbone": VIT_B_32,
        "model": B32_12X384,
        "data": KINETICS_400 | {"short_side": (224, 258), "workers": 8},
        "train": {"epochs": 12, "batch_size": 32, "lr": 1.25e-4, "warmup": 2 / 12, "precision": "bf16"},
        "eval": LAST_EPOCH_ON_VAL,
    },
}

# --- Studies: m2clip ablate EXPERIMENT --study NAME, or notebook 05 -----------------------------------------------------------

# Each variant is the experiment plus one named change, written as after -o; the experiment itself is the variant "full" of every study.
# --study all runs the studies that name no experiments, or this one.
STUDIES = {
    "quick": {
        "question": "Is it the reading of time that does the work?",
        "variants": {
            "none": ["model.visual_adapter=none"],  # the visual side is frozen CLIP, frames averaged
            "static adapter": ["model.static=true"],  # every parameter, but each frame stands in for its neighbours
            "full": [],
        },
    },
    "components": {
        "question": "Which branch of the TED-Adapter does the work?",
        "variants": {
            "none": ["model.visual_adapter=none"],
            "static adapter": ["model.static=true"],
            "enhancement only": ["model.difference=false"],
            "difference only": ["model.enhancement=false"],
            "no frame adapter": ["model.frame_adapter=false"],
        },
    },
    "text": {
        "question": "Do the text adapters help?",
        "variants": {
            "frozen text": ["model.text_side=frozen"],
            "one text adapter": ["model.text_adapter_layers=1"],
            "two text adapters": ["model.text_adapter_layers=2"],
        },
    },
    "heads": {
        "question": "What does each head of the decoder add?",
        "variants": {
            "contrastive alone": ['train.loss_weights={"cross_modal": 0, "classification": 0, "mlm": 0}'],
            "cross-modal alone": ['train.loss_weights={"contrastive": 0, "classification": 0, "mlm": 0}'],
            "classifier alone": ['train.loss_weights={"contrastive": 0, "cross_modal": 0, "mlm": 0}'],
            "no contrastive": ['train.loss_weights={"contrastive": 0}'],
            "no cross-modal": ['train.loss_weights={"cross_modal": 0}'],
            "no classifier": ['train.loss_weights={"classification": 0}'],
            "no masked words": ['train.loss_weights={"mlm": 0}'],
        },
    },
    "placement": {
        "question": "Where should the adapters stand?",
        "variants": {
            "before attention": ["model.vision_adapter_pre_attn=true", "model.vision_adapter_pre_mlp=false"],
            "both places": ["model.vision_adapter_pre_attn=true"],
            "last 2 blocks": ["model.vision_adapter_layers=2"],
            "first 2 blocks": ["model.vision_adapter_layers=2", "model.vision_adapter_blocks=first"],
        },
    },
    "width": {
        "question": "How wide must the bottleneck be?",
        "variants": {f"width {width}": [f"model.vision_adapter_width={width}"] for width in (8, 16, 32, 96)},
    },
    "frames": {
        "question": "How many frames does it need?",
        "variants": {f"{frames} frames": [f"data.num_frames={frames}"] for frames in (2, 4)},
    },
    "sampling": {
        "question": "Frames of a short piece of the video, or of all of it?",
        "variants": {"every frame": ["data.stride=1"], "every second frame": ["data.stride=2"]},
    },
    "losses": {
        "question": "Do the details of the losses matter?",
        "variants": {
            "cross-modal as published": ["train.cross_modal_ce=on_probabilities"],
            "half of the words masked": ["train.masked_share=0.5"],
            "all words masked": ["train.masked_share=1.0"],
        },
    },
    "prompts": {
        "question": "Does the prompt matter?",
        "variants": {
            "name alone": ["data.prompt={}"],
            "three prompts": ['data.prompt=["A video of {}", "{}", "a clip that shows {}"]'],
        },
    },
    "backbone": {  # needs the network once
        "question": "Which CLIP should carry the adapters?",
        "experiments": ["k400_b16", "ucf101_b16", "hmdb51_b16"],
        "variants": {
            "ViT-B/32": ["backbone.source=ViT-B-32-quickgelu/openai"],
            "ViT-B/16 of LAION-2B": ["backbone.source=ViT-B-16/laion2b_s34b_b88k"],
            "ViT-B/16 of DataComp": ["backbone.source=ViT-B-16/datacomp_xl_s13b_b90k"],
        },
    },
    "data": {
        "question": "How much data does it need?",
        "variants": {f"{round(100 * share)} % of the videos": [f"data.train_share={share}"] for share in (0.1, 0.25, 0.5)},
    },
    "peers": {
        "question": "Is TED ahead of other adapters, and of training CLIP itself, under the same recipe?",
        "variants": {
            "ST-Adapter": ["model.visual_adapter=st_adapter"],
            "AIM": ["model.visual_adapter=aim"],
            "LoRA": ["model.visual_adapter=lora"],
            "biases and norms": ["model.visual_adapter=none", "model.unfreeze=biases_and_norms"],
            "last block": ["model.visual_adapter=none", "model.unfreeze=1"],
            "all of CLIP": ["model.visual_adapter=none", "model.unfreeze=all"],
        },
    },
    "demo_multilabel": {
        "question": "Does it read two motions at once?",
        "experiments": ["demo_multilabel"],
        "variants": {"static adapter": ["model.static=true"]},
    },
    "demo_peers": {  # widths that give the demonstration's TED, ST-Adapter, AIM and LoRA the same number of parameters within 3 %
        "question": "Is TED ahead of other adapters with as many parameters, and of training CLIP itself, under the same recipe?",
        "experiments": ["demo"],
        "variants": {
            "ST-Adapter 96": ["model.visual_adapter=st_adapter", "model.vision_adapter_width=96"],
            "AIM 32": ["model.visual_adapter=aim", "model.vision_adapter_width=32"],
            "LoRA 25": ["model.visual_adapter=lora", "model.vision_adapter_width=25"],
            "all of CLIP": ["model.visual_adapter=none", "model.unfreeze=all"],
        },
    },
}
